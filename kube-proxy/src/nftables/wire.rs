//! Messages of nf_tables, as the kernel reads them: tables, chains, sets, elements, and rules with their expressions.
//!
//! Speaking to the kernel instead of running `nft` is what keeps the cost of a change independent of how many rules there are:
//! `nft` reads all chains before it writes one. Knows nothing of Services.

use std::net::IpAddr;

use crate::family::{Cidr, Family};
use crate::netlink::Message;

// The numbers of <linux/netfilter/nfnetlink.h> and <linux/netfilter/nf_tables.h>.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const DELETE_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const DELETE_RULE: u16 = 8;
const NEW_SET: u16 = 9;
const DELETE_SET: u16 = 11;
const NEW_ELEMENT: u16 = 12;
const DELETE_ELEMENT: u16 = 14;

const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

const SET_MAP: u32 = 0x8;
const SET_TIMEOUT: u32 = 0x10;
const SET_DYNAMIC: u32 = 0x20;

/// The first register of four bytes; keys of several parts fill one after the other.
const REGISTER: u32 = 8;
const VERDICT_REGISTER: u32 = 0;

/// An element list may have 64 KiB, and an element takes at most this much.
const ELEMENTS_AT_ONCE: usize = 150;

/// Names of chains and sets that `nft` may list; the kernel's limit for chains is the same.
pub const NAME_MAX: usize = 240;

/// A type of keys and data, by the number that `nft` knows it by.
#[derive(Clone, Copy)]
pub struct Type {
    number: u32,
    bytes: u32,
}

const PROTOCOL: Type = Type { number: 12, bytes: 4 };
const PORT: Type = Type { number: 13, bytes: 4 };
/// A number that `nft` shows in hexadecimal digits.
const MARK: Type = Type { number: 19, bytes: 4 };

const VERDICT: Type = Type { number: 0xffff_ff00, bytes: 0 };

impl Type {
    pub const fn address(family: Family) -> Type {
        match family {
            Family::V4 => Type { number: 7, bytes: 4 },
            Family::V6 => Type { number: 8, bytes: 16 },
        }
    }

    /// A type of several parts.
    const fn then(self, next: Type) -> Type {
        Type { number: self.number << 6 | next.number, bytes: self.bytes + next.bytes }
    }

    /// `address . inet_proto . inet_service`
    pub const fn destination(family: Family) -> Type {
        Type::address(family).then(PROTOCOL).then(PORT)
    }

    /// `inet_proto . inet_service`
    pub const fn port() -> Type {
        PROTOCOL.then(PORT)
    }

    /// `address . inet_service`
    const fn endpoint(family: Family) -> Type {
        Type::address(family).then(PORT)
    }

    /// `address . address . inet_proto . inet_service`
    pub const fn connection(family: Family) -> Type {
        Type::address(family).then(Type::address(family)).then(PROTOCOL).then(PORT)
    }
}

/// The bytes of a key, each part filled up to four.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub Vec<u8>);

impl Key {
    pub fn address(mut self, ip: IpAddr) -> Key {
        match ip {
            IpAddr::V4(ip) => self.0.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => self.0.extend_from_slice(&ip.octets()),
        }
        self
    }

    pub fn protocol(mut self, number: u8) -> Key {
        self.0.extend_from_slice(&[number, 0, 0, 0]);
        self
    }

    /// One of several endpoints of a chain, by the chain's hash.
    pub fn choice(hash: u64, number: u32) -> Key {
        let mut bytes = hash.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&number.to_ne_bytes());
        Key(bytes)
    }

    pub fn port(mut self, number: u16) -> Key {
        self.0.extend_from_slice(&number.to_be_bytes());
        self.0.extend_from_slice(&[0, 0]);
        self
    }
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

impl Verdict {
    fn write(&self, message: &mut Message) {
        let (code, chain): (i32, _) = match self {
            Verdict::Drop => (0, None),
            Verdict::Jump(chain) => (-3, Some(chain)),
            Verdict::Goto(chain) => (-4, Some(chain)),
            Verdict::Return => (-5, None),
        };
        message.nest(2, |message| {
            message.attribute(1, &code.to_be_bytes());
            if let Some(chain) = chain {
                message.text(2, chain);
            }
        });
    }
}

/// What a rule does, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// Loads bytes of the network header.
    Network {
        register: u32,
        offset: u32,
        length: u32,
    },
    /// Loads bytes of the transport header.
    Transport {
        register: u32,
        offset: u32,
        length: u32,
    },
    Meta {
        register: u32,
        key: u32,
    },
    SetMeta {
        key: u32,
    },
    Ct {
        key: u32,
    },
    /// The type of an address, by the routing table: that of the source, or that of the destination.
    AddressType {
        of_source: bool,
    },
    Compare {
        equal: bool,
        data: Vec<u8>,
    },
    Bitwise {
        mask: Vec<u8>,
        xor: Vec<u8>,
    },
    /// Goes on only if the key is in the set.
    Lookup {
        set: String,
    },
    /// Does what the map says of the key.
    VerdictMap {
        map: String,
    },
    /// Loads what the map says of the key.
    Map {
        map: String,
    },
    Load {
        register: u32,
        data: Vec<u8>,
    },
    /// A random number below this one.
    Random {
        register: u32,
        below: u32,
    },
    Dnat {
        family: Family,
    },
    Masquerade,
    Reject {
        family: Family,
    },
    /// Puts the key into a set, or renews it there.
    Update {
        set: String,
    },
    Verdict(Verdict),
}

const META_MARK: u32 = 3;
const META_INTERFACE_NAME: u32 = 6;
const META_PROTOCOL: u32 = 16;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
const FIB_ADDRESS_TYPE: u32 = 3;
const LOCAL: u32 = 2;
const STATE_NEW: u32 = 8;
const STATUS_DNAT: u32 = 0x20;
/// How `fully-random` is written.
const FULLY_RANDOM: u32 = 0x10;

fn data(message: &mut Message, kind: u16, bytes: &[u8]) {
    message.nest(kind, |message| message.attribute(1, bytes));
}

impl Expression {
    fn write(&self, message: &mut Message) {
        let mut expression = |name: &str, fill: &dyn Fn(&mut Message)| {
            message.nest(1, |message| {
                message.text(1, name);
                message.nest(2, |message| fill(message));
            });
        };
        match self {
            Expression::Network { register, offset, length } => expression("payload", &|m| payload(m, *register, 1, *offset, *length)),
            Expression::Transport { register, offset, length } => expression("payload", &|m| payload(m, *register, 2, *offset, *length)),
            Expression::Meta { register, key } => expression("meta", &|m| {
                m.number(2, *key);
                m.number(1, *register);
            }),
            Expression::SetMeta { key } => expression("meta", &|m| {
                m.number(2, *key);
                m.number(3, REGISTER);
            }),
            Expression::Ct { key } => expression("ct", &|m| {
                m.number(2, *key);
                m.number(1, REGISTER);
            }),
            Expression::AddressType { of_source } => expression("fib", &|m| {
                m.number(3, if *of_source { 1 } else { 2 });
                m.number(2, FIB_ADDRESS_TYPE);
                m.number(1, REGISTER);
            }),
            Expression::Compare { equal, data: bytes } => expression("cmp", &|m| {
                m.number(1, REGISTER);
                m.number(2, u32::from(!equal));
                data(m, 3, bytes);
            }),
            Expression::Bitwise { mask, xor } => expression("bitwise", &|m| {
                m.number(1, REGISTER);
                m.number(2, REGISTER);
                m.number(3, u32::try_from(mask.len()).unwrap_or(0));
                data(m, 4, mask);
                data(m, 5, xor);
            }),
            Expression::Lookup { set } => expression("lookup", &|m| {
                m.text(1, set);
                m.number(2, REGISTER);
            }),
            Expression::VerdictMap { map } => expression("lookup", &|m| {
                m.text(1, map);
                m.number(2, REGISTER);
                m.number(3, VERDICT_REGISTER);
            }),
            Expression::Map { map } => expression("lookup", &|m| {
                m.text(1, map);
                m.number(2, REGISTER);
                m.number(3, REGISTER);
            }),
            Expression::Load { register, data: bytes } => expression("immediate", &|m| {
                m.number(1, *register);
                data(m, 2, bytes);
            }),
            Expression::Random { register, below } => expression("numgen", &|m| {
                m.number(1, *register);
                m.number(2, *below);
                m.number(3, 1);
                m.number(4, 0);
            }),
            Expression::Dnat { family } => expression("nat", &|m| {
                m.number(1, 1);
                m.number(2, number_of(*family).into());
                m.number(3, REGISTER);
                m.number(5, REGISTER + Type::address(*family).bytes / 4);
            }),
            Expression::Masquerade => expression("masq", &|m| m.number(1, FULLY_RANDOM)),
            Expression::Reject { family } => expression("reject", &|m| {
                m.number(1, 0);
                // "Port unreachable", which connecting sockets take for a refusal.
                m.attribute(2, &[if *family == Family::V4 { 3 } else { 4 }]);
            }),
            Expression::Update { set } => expression("dynset", &|m| {
                m.text(1, set);
                m.number(3, 1);
                m.number(4, REGISTER);
            }),
            Expression::Verdict(verdict) => expression("immediate", &|m| {
                m.number(1, VERDICT_REGISTER);
                m.nest(2, |m| verdict.write(m));
            }),
        }
    }
}

fn payload(message: &mut Message, register: u32, base: u32, offset: u32, length: u32) {
    message.number(1, register);
    message.number(2, base);
    message.number(3, offset);
    message.number(4, length);
}

/// The family's number in messages.
fn number_of(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

/// A rule, as the matches and actions that it is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    expressions: Vec<Expression>,
    comment: Option<&'static str>,
}

/// Where the source and the destination stand in the header, and how long they are.
const fn address_place(family: Family, source: bool) -> (u32, u32) {
    match (family, source) {
        (Family::V4, true) => (12, 4),
        (Family::V4, false) => (16, 4),
        (Family::V6, true) => (8, 16),
        (Family::V6, false) => (24, 16),
    }
}

impl Rule {
    pub fn new() -> Rule {
        Rule::default()
    }

    pub fn comment(mut self, comment: &'static str) -> Rule {
        self.comment = Some(comment);
        self
    }

    fn then(mut self, expression: Expression) -> Rule {
        self.expressions.push(expression);
        self
    }

    fn load_address(self, family: Family, source: bool, register: u32) -> Rule {
        let (offset, length) = address_place(family, source);
        self.then(Expression::Network { register, offset, length })
    }

    fn load_protocol_and_port(self, register: u32) -> Rule {
        self.then(Expression::Meta { register, key: META_PROTOCOL }).then(Expression::Transport {
            register: register + 1,
            offset: 2,
            length: 2,
        })
    }

    /// `ip daddr . meta l4proto . th dport vmap @map`
    pub fn destination_map(self, family: Family, map: &str) -> Rule {
        let next = REGISTER + Type::address(family).bytes / 4;
        self.load_address(family, false, REGISTER).load_protocol_and_port(next).then(Expression::VerdictMap { map: map.to_owned() })
    }

    /// `meta l4proto . th dport vmap @map`
    pub fn port_map(self, map: &str) -> Rule {
        self.load_protocol_and_port(REGISTER).then(Expression::VerdictMap { map: map.to_owned() })
    }

    /// `ip saddr . ip daddr . meta l4proto . th dport @set`
    pub fn connection_in(self, family: Family, set: &str) -> Rule {
        let words = Type::address(family).bytes / 4;
        self.load_address(family, true, REGISTER)
            .load_address(family, false, REGISTER + words)
            .load_protocol_and_port(REGISTER + 2 * words)
            .then(Expression::Lookup { set: set.to_owned() })
    }

    pub fn destination_in(self, family: Family, set: &str) -> Rule {
        self.load_address(family, false, REGISTER).then(Expression::Lookup { set: set.to_owned() })
    }

    pub fn source_in(self, family: Family, set: &str) -> Rule {
        self.load_address(family, true, REGISTER).then(Expression::Lookup { set: set.to_owned() })
    }

    fn address_is(self, cidr: Cidr, source: bool, equal: bool) -> Rule {
        let bytes = Key::default().address(cidr.network).0;
        let mut rule = self.load_address(cidr.family(), source, REGISTER);
        if usize::from(cidr.prefix) < bytes.len() * 8 {
            let mask: Vec<u8> = (0..bytes.len()).map(|place| mask_byte(cidr.prefix, place)).collect();
            rule = rule.then(Expression::Bitwise { mask, xor: vec![0; bytes.len()] });
        }
        rule.then(Expression::Compare { equal, data: bytes })
    }

    pub fn source_is(self, cidr: Cidr, equal: bool) -> Rule {
        self.address_is(cidr, true, equal)
    }

    pub fn destination_is(self, cidr: Cidr, equal: bool) -> Rule {
        self.address_is(cidr, false, equal)
    }

    /// The interface by which the packet came; with `prefix` any whose name begins so.
    pub fn interface_is(self, name: &str, prefix: bool, equal: bool) -> Rule {
        let mut data = name.as_bytes().to_vec();
        if !prefix {
            data.resize(16, 0);
        }
        self.then(Expression::Meta { register: REGISTER, key: META_INTERFACE_NAME }).then(Expression::Compare { equal, data })
    }

    fn has_bits(self, bits: u32) -> Rule {
        let (mask, zero) = (bits.to_ne_bytes().to_vec(), vec![0; 4]);
        self.then(Expression::Bitwise { mask, xor: zero.clone() }).then(Expression::Compare { equal: false, data: zero })
    }

    pub fn of_new_connection(self) -> Rule {
        self.then(Expression::Ct { key: CT_STATE }).has_bits(STATE_NEW)
    }

    pub fn was_dnat(self) -> Rule {
        self.then(Expression::Ct { key: CT_STATUS }).has_bits(STATUS_DNAT)
    }

    pub fn has_mark(self, mark: u32) -> Rule {
        self.then(Expression::Meta { register: REGISTER, key: META_MARK }).has_bits(mark)
    }

    fn change_mark(self, keep: u32, xor: u32) -> Rule {
        self.then(Expression::Meta { register: REGISTER, key: META_MARK })
            .then(Expression::Bitwise { mask: keep.to_ne_bytes().to_vec(), xor: xor.to_ne_bytes().to_vec() })
            .then(Expression::SetMeta { key: META_MARK })
    }

    pub fn set_mark(self, mark: u32) -> Rule {
        self.change_mark(!mark, mark)
    }

    pub fn flip_mark(self, mark: u32) -> Rule {
        self.change_mark(u32::MAX, mark)
    }

    fn address_type_is_local(self, of_source: bool) -> Rule {
        self.then(Expression::AddressType { of_source }).then(Expression::Compare { equal: true, data: LOCAL.to_ne_bytes().to_vec() })
    }

    pub fn source_is_this_host(self) -> Rule {
        self.address_type_is_local(true)
    }

    pub fn destination_is_this_host(self) -> Rule {
        self.address_type_is_local(false)
    }

    pub fn protocol_is(self, number: u8) -> Rule {
        self.then(Expression::Meta { register: REGISTER, key: META_PROTOCOL }).then(Expression::Compare { equal: true, data: vec![number] })
    }

    /// Goes on for one packet of so many.
    pub fn one_of(self, number: u32) -> Rule {
        self.then(Expression::Random { register: REGISTER, below: number }).then(Expression::Compare { equal: true, data: vec![0; 4] })
    }

    pub fn dnat(self, to: std::net::SocketAddr) -> Rule {
        let family = Family::of(to.ip());
        let port_register = REGISTER + Type::address(family).bytes / 4;
        self.then(Expression::Load { register: REGISTER, data: Key::default().address(to.ip()).0 })
            .then(Expression::Load { register: port_register, data: to.port().to_be_bytes().to_vec() })
            .then(Expression::Dnat { family })
    }

    /// To any of so many endpoints, each as likely as the others, that the map has under this hash.
    pub fn dnat_any(self, family: Family, map: &str, hash: u64, count: u32) -> Rule {
        self.then(Expression::Load { register: REGISTER, data: hash.to_ne_bytes()[..4].to_vec() })
            .then(Expression::Load { register: REGISTER + 1, data: hash.to_ne_bytes()[4..].to_vec() })
            .then(Expression::Random { register: REGISTER + 2, below: count })
            .then(Expression::Map { map: map.to_owned() })
            .then(Expression::Dnat { family })
    }

    pub fn update_source(self, family: Family, set: &str) -> Rule {
        self.load_address(family, true, REGISTER).then(Expression::Update { set: set.to_owned() })
    }

    pub fn masquerade(self) -> Rule {
        self.then(Expression::Masquerade)
    }

    pub fn reject(self, family: Family) -> Rule {
        self.then(Expression::Reject { family })
    }

    pub fn verdict(self, verdict: Verdict) -> Rule {
        self.then(Expression::Verdict(verdict))
    }
}

fn mask_byte(prefix: u8, place: usize) -> u8 {
    let bits = usize::from(prefix).saturating_sub(place * 8).min(8);
    u8::try_from(0xff00u32 >> bits & 0xff).unwrap_or(0xff)
}

/// Where the kernel hands packets to a chain.
#[derive(Clone, Copy)]
pub struct Hook {
    pub kind: &'static str,
    pub number: u32,
    pub priority: i32,
}

/// What a map says of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Verdict(Verdict),
    Endpoint(std::net::SocketAddr),
}

/// An element of a set, or of a map with what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    pub key: Key,
    pub value: Option<Value>,
}

/// Messages that take effect together.
pub struct Batch {
    family: Family,
    table: &'static str,
    messages: Vec<Message>,
    sets: u32,
}

fn kind(number: u16) -> u16 {
    SUBSYSTEM << 8 | number
}

/// Type, length, value: how comments and the like are kept.
fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, u8::try_from(value.len()).unwrap_or(u8::MAX)];
    bytes.extend_from_slice(value);
    bytes
}

fn comment_data(kind: u8, comment: &str) -> Vec<u8> {
    let mut text = comment.as_bytes().to_vec();
    text.push(0);
    tlv(kind, &text)
}

impl Batch {
    pub fn new(family: Family, table: &'static str) -> Batch {
        Batch { family, table, messages: Vec::new(), sets: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    fn push(&mut self, number: u16, flags: u16, fill: impl FnOnce(&mut Message)) {
        let mut message = Message::new(kind(number), flags, number_of(self.family));
        message.text(1, self.table);
        fill(&mut message);
        self.messages.push(message);
    }

    pub fn add_table(&mut self, comment: &str) {
        self.push(NEW_TABLE, CREATE, |m| m.attribute(6, &comment_data(0, comment)));
    }

    pub fn delete_table(&mut self) {
        self.push(DELETE_TABLE, 0, |_| {});
    }

    pub fn add_chain(&mut self, name: &str, hook: Option<Hook>) {
        self.push(NEW_CHAIN, CREATE, |m| {
            m.text(3, name);
            if let Some(hook) = hook {
                m.nest(4, |m| {
                    m.number(1, hook.number);
                    m.attribute(2, &hook.priority.to_be_bytes());
                });
                m.text(7, hook.kind);
            }
        });
    }

    pub fn delete_chain(&mut self, name: &str) {
        self.push(DELETE_CHAIN, 0, |m| m.text(3, name));
    }

    /// Takes all rules out of a chain.
    pub fn flush_chain(&mut self, name: &str) {
        self.push(DELETE_RULE, 0, |m| m.text(2, name));
    }

    pub fn add_rule(&mut self, chain: &str, rule: &Rule) {
        self.push(NEW_RULE, CREATE | APPEND, |m| {
            m.text(2, chain);
            m.nest(4, |m| rule.expressions.iter().for_each(|expression| expression.write(m)));
            if let Some(comment) = rule.comment {
                m.attribute(7, &comment_data(0, comment));
            }
        });
    }

    fn add_container(&mut self, name: &str, of: Type, data: Option<Type>, flags: u32, timeout_s: Option<u32>) {
        self.sets += 1;
        let id = self.sets;
        self.push(NEW_SET, CREATE, |m| {
            m.text(2, name);
            m.number(3, flags);
            m.number(4, of.number);
            m.number(5, of.bytes);
            if let Some(data) = data {
                m.number(6, data.number);
                // A verdict has no length.
                if data.bytes > 0 {
                    m.number(7, data.bytes);
                }
            }
            m.number(10, id);
            if let Some(seconds) = timeout_s {
                m.attribute(11, &(u64::from(seconds) * 1000).to_be_bytes());
            }
        });
    }

    pub fn add_set(&mut self, name: &str, of: Type) {
        self.add_container(name, of, None, 0, None);
    }

    pub fn add_verdict_map(&mut self, name: &str, of: Type) {
        self.add_container(name, of, Some(VERDICT), SET_MAP, None);
    }

    /// A map from [`Key::choice`] to addresses with ports.
    pub fn add_endpoint_map(&mut self, name: &str) {
        let key = MARK.then(MARK).then(MARK);
        self.add_container(name, key, Some(Type::endpoint(self.family)), SET_MAP, None);
    }

    /// A set that packets put their addresses into, for so many seconds.
    pub fn add_recent_set(&mut self, name: &str, timeout_s: u32) {
        self.add_container(name, Type::address(self.family), None, SET_DYNAMIC | SET_TIMEOUT, Some(timeout_s));
    }

    pub fn delete_set(&mut self, name: &str) {
        self.push(DELETE_SET, 0, |m| m.text(2, name));
    }

    pub fn add_elements(&mut self, set: &str, elements: &[Element]) {
        self.elements(NEW_ELEMENT, CREATE, set, elements);
    }

    pub fn delete_elements(&mut self, set: &str, elements: &[Element]) {
        self.elements(DELETE_ELEMENT, 0, set, elements);
    }

    fn elements(&mut self, number: u16, flags: u16, set: &str, elements: &[Element]) {
        for some in elements.chunks(ELEMENTS_AT_ONCE) {
            self.push(number, flags, |m| {
                m.text(2, set);
                m.nest(3, |m| {
                    for element in some {
                        m.nest(1, |m| {
                            data(m, 1, &element.key.0);
                            match element.value.as_ref().filter(|_| number == NEW_ELEMENT) {
                                Some(Value::Verdict(verdict)) => m.nest(2, |m| verdict.write(m)),
                                Some(Value::Endpoint(to)) => data(m, 2, &Key::default().address(to.ip()).port(to.port()).0),
                                None => {}
                            }
                        });
                    }
                });
            });
        }
    }

    /// All messages, between those that begin and end a batch.
    pub fn finish(self) -> Vec<Message> {
        let edge = |number: u16| {
            let mut message = Message::new(number, 0, 0);
            message.resource(SUBSYSTEM);
            message
        };
        let mut all = Vec::with_capacity(self.messages.len() + 2);
        all.push(edge(BATCH_BEGIN));
        all.extend(self.messages);
        all.push(edge(BATCH_END));
        all
    }
}

/// The question whether a table is there.
pub fn get_table(family: Family, table: &str) -> Message {
    let mut message = Message::new(kind(GET_TABLE), crate::netlink::ACK, number_of(family));
    message.text(1, table);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_have_as_many_bits_as_the_prefix() {
        let mask = |prefix| (0..4).map(|place| mask_byte(prefix, place)).collect::<Vec<_>>();
        assert_eq!(mask(0), [0, 0, 0, 0]);
        assert_eq!(mask(12), [0xff, 0xf0, 0, 0]);
        assert_eq!(mask(32), [0xff; 4]);
    }

    #[test]
    fn types_of_several_parts_are_those_of_nft() {
        assert_eq!((Type::destination(Family::V4).number, Type::destination(Family::V4).bytes), ((7 << 6 | 12) << 6 | 13, 12));
        assert_eq!(Type::connection(Family::V6).bytes, 40);
    }
}
