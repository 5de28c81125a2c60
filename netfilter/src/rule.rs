//! Rules in the words of `nft`: each word adds the expressions that it stands for.

use crate::expression::{
    CT_STATE, CT_STATUS, Expression, LOCAL, META_INTERFACE_NAME, META_MARK, META_PROTOCOL, REGISTER, STATE_ESTABLISHED, STATE_NEW,
    STATE_RELATED, STATUS_DNAT, Verdict,
};
use crate::family::{Cidr, Family};
use crate::key::{Key, Type};

/// A rule, as the matches and actions that it is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    pub expressions: Vec<Expression>,
    pub comment: Option<&'static str>,
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

    /// `ip saddr vmap @map`, or `ip daddr vmap @map`
    pub fn address_map(self, family: Family, source: bool, map: &str) -> Rule {
        self.load_address(family, source, REGISTER).then(Expression::VerdictMap { map: map.to_owned() })
    }

    /// `ip saddr . ip daddr @set`
    pub fn pair_in(self, family: Family, set: &str) -> Rule {
        let next = REGISTER + Type::address(family).bytes / 4;
        self.load_address(family, true, REGISTER).load_address(family, false, next).then(Expression::Lookup { set: set.to_owned() })
    }

    /// `ip daddr . meta l4proto . th dport @set`
    pub fn destination_port_in(self, family: Family, set: &str) -> Rule {
        let next = REGISTER + Type::address(family).bytes / 4;
        self.load_address(family, false, REGISTER).load_protocol_and_port(next).then(Expression::Lookup { set: set.to_owned() })
    }

    /// `meta l4proto . th dport @set`
    pub fn port_in(self, set: &str) -> Rule {
        self.load_protocol_and_port(REGISTER).then(Expression::Lookup { set: set.to_owned() })
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

    /// Of a connection that was let through before, or about one, as errors of ICMP are.
    pub fn of_known_connection(self) -> Rule {
        self.then(Expression::Ct { key: CT_STATE }).has_bits(STATE_ESTABLISHED | STATE_RELATED)
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
}
