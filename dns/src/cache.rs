//! What upstream has answered, for as long as it may be kept and there is room.
//!
//! Pure: times are given.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RecordType};

/// So many answers are kept; the oldest goes first.
const ENTRIES: usize = 4096;

/// However long an answer may be kept, it is asked for again after this long.
const TTL_MAX: Duration = Duration::from_secs(30);

/// The question that an answer belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// In lower case.
    name: Name,
    kind: RecordType,
    /// Whether signatures were asked for.
    dnssec: bool,
}

impl Key {
    pub fn new(name: &Name, kind: RecordType, dnssec: bool) -> Key {
        Key { name: name.to_lowercase(), kind, dnssec }
    }
}

struct Entry {
    message: Message,
    stored: Instant,
    until: Instant,
}

/// See the file's header.
#[derive(Default)]
pub struct Cache {
    entries: HashMap<Key, Entry>,
    order: VecDeque<Key>,
}

/// How long an answer may be kept: as its shortest record, or as its zone says about nothing.
fn ttl(message: &Message) -> Duration {
    let records = message.answers.iter().chain(&message.authorities);
    let shortest = records.map(|record| record.ttl).min().unwrap_or(0);
    Duration::from_secs(shortest.into()).min(TTL_MAX)
}

impl Cache {
    /// The answer, with what is left of its records' times.
    pub fn get(&self, key: &Key, now: Instant) -> Option<Message> {
        let entry = self.entries.get(key).filter(|entry| entry.until > now)?;
        let age = u32::try_from(now.duration_since(entry.stored).as_secs()).unwrap_or(u32::MAX);
        let mut message = entry.message.clone();
        for records in [&mut message.answers, &mut message.authorities, &mut message.additionals] {
            records.iter_mut().for_each(|record| record.ttl = record.ttl.saturating_sub(age));
        }
        Some(message)
    }

    /// Keeps an answer, if it is one that may be kept.
    pub fn put(&mut self, key: Key, message: &Message, now: Instant) {
        let is_final = matches!(message.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain);
        let ttl = ttl(message);
        if !is_final || message.metadata.truncation || ttl.is_zero() {
            return;
        }
        let entry = Entry { message: message.clone(), stored: now, until: now + ttl };
        if self.entries.insert(key.clone(), entry).is_none() {
            self.order.push_back(key);
        }
        while self.entries.len() > ENTRIES {
            let Some(oldest) = self.order.pop_front() else { break };
            self.entries.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::OpCode;
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{RData, Record};

    use super::*;

    fn message(name: &Name, ttl: u32) -> Message {
        let mut message = Message::response(1, OpCode::Query);
        message.answers.push(Record::from_rdata(name.clone(), ttl, RData::A(A::new(1, 2, 3, 4))));
        message
    }

    #[test]
    fn answers_grow_old() {
        let name = Name::from_ascii("Example.com.").unwrap();
        let (mut cache, now) = (Cache::default(), Instant::now());
        let key = Key::new(&name, RecordType::A, false);
        cache.put(key.clone(), &message(&name, 10), now);
        let lower = Key::new(&Name::from_ascii("example.COM.").unwrap(), RecordType::A, false);
        assert_eq!(cache.get(&lower, now + Duration::from_secs(4)).unwrap().answers[0].ttl, 6);
        assert!(cache.get(&key, now + Duration::from_secs(10)).is_none());
        cache.put(key.clone(), &message(&name, 3600), now);
        assert!(cache.get(&key, now + Duration::from_secs(31)).is_none(), "no answer is kept for an hour");
    }

    #[test]
    fn failures_are_not_kept_and_room_is_limited() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let name = Name::from_ascii("example.com.").unwrap();
        let mut failed = message(&name, 10);
        failed.metadata.response_code = ResponseCode::ServFail;
        let key = Key::new(&name, RecordType::A, false);
        cache.put(key.clone(), &failed, now);
        assert!(cache.get(&key, now).is_none());
        for number in 0..ENTRIES + 10 {
            let name = Name::from_ascii(format!("n{number}.example.com.")).unwrap();
            cache.put(Key::new(&name, RecordType::A, false), &message(&name, 10), now);
        }
        assert_eq!((cache.entries.len(), cache.order.len()), (ENTRIES, ENTRIES));
    }
}
