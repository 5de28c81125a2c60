//! Types and bytes of keys, as sets and maps have them: parts one after the other, each filled up to four bytes.

use std::net::IpAddr;

use crate::family::Family;

/// A type of keys and data, by the number that `nft` knows it by.
#[derive(Clone, Copy)]
pub struct Type {
    pub number: u32,
    pub bytes: u32,
}

const PROTOCOL: Type = Type { number: 12, bytes: 4 };
pub const PORT: Type = Type { number: 13, bytes: 4 };
/// A number that `nft` shows in hexadecimal digits.
pub const MARK: Type = Type { number: 19, bytes: 4 };

pub const VERDICT: Type = Type { number: 0xffff_ff00, bytes: 0 };

impl Type {
    pub const fn address(family: Family) -> Type {
        match family {
            Family::V4 => Type { number: 7, bytes: 4 },
            Family::V6 => Type { number: 8, bytes: 16 },
        }
    }

    /// A type of several parts.
    pub const fn then(self, next: Type) -> Type {
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
    pub const fn endpoint(family: Family) -> Type {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_several_parts_are_those_of_nft() {
        assert_eq!((Type::destination(Family::V4).number, Type::destination(Family::V4).bytes), ((7 << 6 | 12) << 6 | 13, 12));
        assert_eq!(Type::connection(Family::V6).bytes, 40);
    }
}
