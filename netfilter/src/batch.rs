//! Messages of nf_tables that take effect together: tables, chains, rules, sets and elements.
//!
//! Speaking to the kernel instead of running `nft` is what keeps the cost of a change independent of how many rules there are:
//! `nft` reads all chains before it writes one. Knows nothing of Services.

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::expression::{Verdict, data, number_of};
use crate::family::Family;
use crate::key::{Key, MARK, Type, VERDICT};
use crate::netlink::{ACK, Message, Socket};
use crate::rule::Rule;

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

const SET_INTERVAL: u32 = 0x4;
const SET_MAP: u32 = 0x8;
const SET_TIMEOUT: u32 = 0x10;
const SET_DYNAMIC: u32 = 0x20;
const SET_CONCATENATION: u32 = 0x80;

/// The end of an interval, which does not belong to it any more.
const INTERVAL_END: u32 = 1;

/// An element list may have 64 KiB, and an element takes at most this much.
const ELEMENTS_AT_ONCE: usize = 150;

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
    Endpoint(SocketAddr),
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

/// The address that follows; nothing follows the last one.
fn after(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().checked_add(1).map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(ip) => ip.to_bits().checked_add(1).map(|bits| IpAddr::V6(bits.into())),
    }
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
        self.container(name, of, flags, |m| {
            if let Some(data) = data {
                m.number(6, data.number);
                // A verdict has no length.
                if data.bytes > 0 {
                    m.number(7, data.bytes);
                }
            }
            if let Some(seconds) = timeout_s {
                m.attribute(11, &(u64::from(seconds) * 1000).to_be_bytes());
            }
        });
    }

    fn container(&mut self, name: &str, of: Type, flags: u32, more: impl FnOnce(&mut Message)) {
        self.sets += 1;
        let id = self.sets;
        self.push(NEW_SET, CREATE, |m| {
            m.text(2, name);
            m.number(3, flags);
            m.number(4, of.number);
            m.number(5, of.bytes);
            m.number(10, id);
            more(m);
        });
    }

    pub fn add_set(&mut self, name: &str, of: Type) {
        self.add_container(name, of, None, 0, None);
    }

    /// A set of ranges of addresses; see [`Batch::add_address_ranges`].
    pub fn add_address_range_set(&mut self, name: &str) {
        self.container(name, Type::address(self.family), SET_INTERVAL, |_| {});
    }

    /// A set of ranges of ports, each of one protocol; see [`Batch::add_port_ranges`].
    pub fn add_port_range_set(&mut self, name: &str) {
        self.container(name, Type::port(), SET_INTERVAL | SET_CONCATENATION, |m| {
            m.nest(9, |m| {
                m.nest(2, |m| {
                    for bytes in [1, 2] {
                        m.nest(1, |m| m.number(1, bytes));
                    }
                });
            });
        });
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

    /// Ranges of addresses, first and last, that neither overlap nor touch, in their order.
    pub fn add_address_ranges(&mut self, set: &str, ranges: &[(IpAddr, IpAddr)]) {
        let place = |ip: IpAddr| Key::default().address(ip);
        for some in ranges.chunks(ELEMENTS_AT_ONCE / 2) {
            self.push(NEW_ELEMENT, CREATE, |m| {
                m.text(2, set);
                m.nest(3, |m| {
                    for (first, last) in some {
                        m.nest(1, |m| data(m, 1, &place(*first).0));
                        // What goes on to the last address has no end.
                        if let Some(end) = after(*last) {
                            m.nest(1, |m| {
                                data(m, 1, &place(end).0);
                                m.number(3, INTERVAL_END);
                            });
                        }
                    }
                });
            });
        }
    }

    /// Ranges of ports: the protocol's number, the first and the last. Those of one protocol do not overlap.
    pub fn add_port_ranges(&mut self, set: &str, ranges: &[(u8, u16, u16)]) {
        for some in ranges.chunks(ELEMENTS_AT_ONCE) {
            self.push(NEW_ELEMENT, CREATE, |m| {
                m.text(2, set);
                m.nest(3, |m| {
                    for (protocol, first, last) in some {
                        m.nest(1, |m| {
                            data(m, 1, &Key::default().protocol(*protocol).port(*first).0);
                            data(m, 10, &Key::default().protocol(*protocol).port(*last).0);
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

/// Whether a table is there, in the network namespace of the calling thread.
pub fn table_exists(family: Family, table: &str) -> io::Result<bool> {
    match Socket::open()?.request(get_table(family, table), |_| {}) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The question whether a table is there.
fn get_table(family: Family, table: &str) -> Message {
    let mut message = Message::new(kind(GET_TABLE), ACK, number_of(family));
    message.text(1, table);
    message
}
