//! What rules are made of, and how the kernel reads it. Values go through registers, of which one is enough here, with those
//! after it for keys of several parts.

use crate::family::Family;
use crate::key::Type;
use crate::netlink::Message;

/// The first register of four bytes; keys of several parts fill one after the other.
pub const REGISTER: u32 = 8;
const VERDICT_REGISTER: u32 = 0;

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

impl Verdict {
    pub fn write(&self, message: &mut Message) {
        let (code, chain): (i32, _) = match self {
            Verdict::Drop => (0, None),
            Verdict::Accept => (1, None),
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

pub const META_MARK: u32 = 3;
pub const META_INTERFACE_NAME: u32 = 6;
pub const META_PROTOCOL: u32 = 16;
pub const CT_STATE: u32 = 0;
pub const CT_STATUS: u32 = 2;
const FIB_ADDRESS_TYPE: u32 = 3;
pub const LOCAL: u32 = 2;
/// A connection that packets have gone through in both directions, and what belongs to one.
pub const STATE_ESTABLISHED: u32 = 2;
pub const STATE_RELATED: u32 = 4;
pub const STATE_NEW: u32 = 8;
pub const STATUS_DNAT: u32 = 0x20;
/// How `fully-random` is written.
const FULLY_RANDOM: u32 = 0x10;

pub fn data(message: &mut Message, kind: u16, bytes: &[u8]) {
    message.nest(kind, |message| message.attribute(1, bytes));
}

impl Expression {
    pub fn write(&self, message: &mut Message) {
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
pub fn number_of(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}
