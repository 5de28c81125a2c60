//! From a message to its reply: what is malformed, what is ours, what upstream knows, and what fits.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RData, Record};
use hickory_proto::serialize::binary::BinEncodable;
use rand::seq::SliceRandom;

use crate::answer::{Answer, Zone, answer};
use crate::forward::{Error, Forwarder};
use crate::view::View;

/// An alias may lead to an alias, but not for ever.
const ALIASES: usize = 8;

/// Without EDNS a datagram holds so much; with it, what the client says, up to what we are willing to send.
const PLAIN_BYTES: u16 = 512;
const DATAGRAM_BYTES_MAX: u16 = 4096;

/// All that replies are made of.
pub struct Responder {
    pub view: View,
    pub zone: Zone,
    pub forwarder: Forwarder,
}

/// A reply, or a question to upstream that must come first.
pub enum Step {
    Reply(Message),
    Ask(Box<Pending>),
    /// What came was not even a question.
    Ignore,
}

/// A reply that waits for upstream.
pub struct Pending {
    reply: Message,
    query: Query,
    dnssec: bool,
}

fn serial() -> u32 {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    // It wraps around in 2106, as serials do.
    seconds as u32
}

impl Responder {
    /// What can be said at once.
    pub fn start(&self, bytes: &[u8]) -> (Step, u16) {
        let Ok(request) = Message::from_vec(bytes) else {
            let Some(id) = bytes.get(..12).map(|head| u16::from_be_bytes([head[0], head[1]])) else { return (Step::Ignore, 0) };
            // An answer must not be answered, be it as broken as it may.
            if bytes[2] & 0x80 != 0 {
                return (Step::Ignore, 0);
            }
            return (Step::Reply(Message::error_msg(id, OpCode::Query, ResponseCode::FormErr)), PLAIN_BYTES);
        };
        if request.metadata.message_type == MessageType::Response {
            return (Step::Ignore, 0);
        }
        let limit = request.edns.as_ref().map_or(PLAIN_BYTES, |edns| edns.max_payload().clamp(PLAIN_BYTES, DATAGRAM_BYTES_MAX));
        (self.answer(&request), limit)
    }

    fn answer(&self, request: &Message) -> Step {
        let mut reply = Message::response(request.metadata.id, request.metadata.op_code);
        reply.metadata.recursion_desired = request.metadata.recursion_desired;
        reply.metadata.recursion_available = true;
        reply.queries.clone_from(&request.queries);
        let mut dnssec = false;
        if let Some(asked) = &request.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(DATAGRAM_BYTES_MAX);
            dnssec = asked.flags().dnssec_ok;
            edns.set_dnssec_ok(dnssec);
            reply.set_edns(edns);
            if asked.version() != 0 {
                return failed(reply, ResponseCode::BADVERS);
            }
        }
        if request.metadata.op_code != OpCode::Query {
            return failed(reply, ResponseCode::NotImp);
        }
        let [query] = &request.queries[..] else { return failed(reply, ResponseCode::FormErr) };
        if query.query_class() != DNSClass::IN {
            return failed(reply, ResponseCode::Refused);
        }
        self.resolve(reply, query.clone(), dnssec)
    }

    /// Follows aliases within the cluster, to an answer or out of it.
    fn resolve(&self, mut reply: Message, mut query: Query, dnssec: bool) -> Step {
        for _ in 0..ALIASES {
            let is_ours = self.zone.contains(query.name());
            if is_ours && !self.view.is_complete() {
                return failed(reply, ResponseCode::ServFail);
            }
            match answer(query.name(), query.query_type(), &self.view, &self.zone, serial()) {
                Answer::Found { mut answers, additionals } => {
                    // Clients take the first address; all endpoints are to be first now and then.
                    answers.shuffle(&mut rand::rng());
                    reply.metadata.authoritative = true;
                    reply.answers.extend(answers);
                    reply.additionals = additionals;
                    return Step::Reply(reply);
                }
                Answer::NoData => return Step::Reply(self.nothing(reply, ResponseCode::NoError)),
                Answer::NxDomain => return Step::Reply(self.nothing(reply, ResponseCode::NXDomain)),
                Answer::Alias { record, target } => {
                    reply.metadata.authoritative = true;
                    reply.answers.push(*record);
                    query.set_name(target);
                }
                Answer::Elsewhere => {
                    if let Some(known) = self.forwarder.cached(&query, dnssec) {
                        return Step::Reply(take(reply, known));
                    }
                    return Step::Ask(Box::new(Pending { reply, query, dnssec }));
                }
            }
        }
        failed(reply, ResponseCode::ServFail)
    }

    fn nothing(&self, mut reply: Message, code: ResponseCode) -> Message {
        reply.metadata.authoritative = true;
        reply.metadata.response_code = code;
        reply.authorities.push(self.zone.soa(serial()));
        reply
    }

    /// The reply, once upstream has been asked.
    pub async fn finish(&self, pending: Pending) -> Message {
        let Pending { mut reply, query, dnssec } = pending;
        match self.forwarder.ask(&query, dnssec).await {
            Ok(answer) => take(reply, answer),
            Err(error) => {
                tracing::debug!(name = %query.name(), %error, "cannot answer");
                reply.metadata.response_code = match error {
                    Error::Nobody | Error::TooMany => ResponseCode::Refused,
                    Error::Silence(_) => ResponseCode::ServFail,
                };
                reply
            }
        }
    }
}

fn failed(mut reply: Message, code: ResponseCode) -> Step {
    reply.metadata.response_code = code;
    Step::Reply(reply)
}

/// Puts what upstream says into a reply, after what is there already.
fn take(mut reply: Message, from: Message) -> Message {
    // With an alias of ours before it, upstream's word about nothing still stands.
    reply.metadata.response_code = from.metadata.response_code;
    reply.metadata.authentic_data = from.metadata.authentic_data && reply.answers.is_empty();
    reply.answers.extend(from.answers);
    reply.authorities = from.authorities;
    reply.additionals = from.additionals;
    reply
}

/// The reply as bytes, of at most so many. What does not fit is left out: first what is only additional, then the reply says
/// that it is cut.
pub fn encode(reply: &Message, limit: usize) -> Option<Vec<u8>> {
    if let Some(bytes) = encode_addresses(reply, limit) {
        return Some(bytes);
    }
    let whole = |message: &Message| message.to_vec().inspect_err(|error| tracing::warn!(%error, "cannot encode a reply")).ok();
    let mut bytes = whole(reply)?;
    if bytes.len() <= limit {
        return Some(bytes);
    }
    let mut shorter = reply.clone();
    shorter.additionals.clear();
    bytes = whole(&shorter)?;
    // Records go from the end until the rest fits; each step takes away the share that is too much.
    while bytes.len() > limit && (!shorter.answers.is_empty() || !shorter.authorities.is_empty()) {
        shorter.metadata.truncation = true;
        shorter.authorities.clear();
        let keep = shorter.answers.len() * limit / bytes.len();
        shorter.answers.truncate(keep.min(shorter.answers.len().saturating_sub(1)));
        bytes = whole(&shorter)?;
    }
    Some(bytes)
}

/// Where the name of the question stands in every message, as records point to it.
const POINTER_TO_QUESTION: [u8; 2] = [0xc0, 12];
const HEADER_BYTES: usize = 12;
/// A record without its data.
const RECORD_BYTES: usize = 12;
const TRUNCATED: u8 = 0x02;

/// Addresses of the name that was asked for, each in as few bytes as can be: the encoder ceases to point to names after so
/// many, and a headless Service may have thousands. Nothing for other replies.
fn encode_addresses(reply: &Message, limit: usize) -> Option<Vec<u8>> {
    let [query] = &reply.queries[..] else { return None };
    let is_plain = |record: &Record| matches!(record.data, RData::A(_) | RData::AAAA(_)) && record.name.eq_case(query.name());
    if reply.answers.is_empty() || !reply.authorities.is_empty() || !reply.additionals.is_empty() || !reply.answers.iter().all(is_plain) {
        return None;
    }
    let mut frame = reply.clone();
    frame.answers.clear();
    let mut bytes = frame.to_vec().ok()?;
    let question_end = HEADER_BYTES + query.to_bytes().ok()?.len();
    let after = bytes.split_off(question_end);
    let mut count: u16 = 0;
    for record in &reply.answers {
        let data: &[u8] = match &record.data {
            RData::A(ip) => &ip.0.octets(),
            RData::AAAA(ip) => &ip.0.octets(),
            _ => return None,
        };
        if bytes.len() + RECORD_BYTES + data.len() + after.len() > limit {
            bytes[2] |= TRUNCATED;
            break;
        }
        bytes.extend_from_slice(&POINTER_TO_QUESTION);
        bytes.extend_from_slice(&u16::from(record.record_type()).to_be_bytes());
        bytes.extend_from_slice(&u16::from(record.dns_class).to_be_bytes());
        bytes.extend_from_slice(&record.ttl.to_be_bytes());
        bytes.extend_from_slice(&u16::try_from(data.len()).ok()?.to_be_bytes());
        bytes.extend_from_slice(data);
        count += 1;
    }
    bytes[6..8].copy_from_slice(&count.to_be_bytes());
    bytes.extend_from_slice(&after);
    Some(bytes)
}

/// Upstream servers that are not ourselves.
pub fn others(servers: Vec<SocketAddr>, bind: &[SocketAddr]) -> Vec<SocketAddr> {
    servers.into_iter().filter(|server| !bind.contains(server)).collect()
}
