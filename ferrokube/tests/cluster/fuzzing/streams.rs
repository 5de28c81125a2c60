//! HTTP/2: floods, bombs and frames without sense cost who sends them the connection, and the others nothing.

use std::time::Duration;

use super::{Random, Target, seeds};
use crate::wire::Connection;
use crate::wire::frames::{
    CONTINUATION, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, frames, get, literal,
};

const CASES: u64 = 60;
/// A server that has something to say does so within this.
const QUIET: Duration = Duration::from_millis(300);

async fn open(target: &Target, settings: &[u8]) -> Connection {
    let mut connection = target.way.connect("h2").await;
    connection.write(&[PREFACE, &frame(SETTINGS, 0, 0, settings)].concat()).await;
    connection
}

/// Whether the server has ended the connection with an error.
fn is_ended(bytes: &[u8]) -> bool {
    frames(bytes).iter().any(|(kind, payload)| *kind == GOAWAY && payload.get(4..8).is_some_and(|code| code != [0; 4]))
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_end_the_connection_or_nothing() {
    let target = Target::start(&[]).await;
    let robot = target.robot().await;
    let odd = |i: u32| 2 * i + 1;

    // A connection like this one works.
    let mut plain = open(&target, &[]).await;
    plain.write(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &get("/api", &robot))).await;
    let answer = plain.rest(QUIET).await;
    let statuses: Vec<u8> = frames(&answer).iter().filter(|(kind, _)| *kind == HEADERS).map(|(_, payload)| payload[0]).collect();
    assert_eq!(statuses, [0x88], ":status: 200 of the table");

    for (who, token) in [("nobody", ""), ("the robot", robot.as_str())] {
        let mut connection = open(&target, &[]).await;
        let mut alive = true;
        for batch in 0..50 {
            let resets = (0..200).flat_map(|i| {
                let stream = odd(batch * 200 + i);
                let request = frame(HEADERS, END_HEADERS | END_STREAM, stream, &get("/api/v1/namespaces", token));
                [request, frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())].concat()
            });
            alive = alive && connection.write(&resets.collect::<Vec<u8>>()).await;
        }
        target.is_well(&format!("after 10,000 resets by {who}")).await;
        assert!(!alive || is_ended(&connection.rest(QUIET).await), "10,000 resets by {who} are nothing");
    }

    let mut connection = open(&target, &[]).await;
    connection.write(&frame(HEADERS, END_STREAM, 1, &get("/api", ""))).await;
    let continuation = frame(CONTINUATION, 0, 1, &literal("x-more", &"a".repeat(8_000)));
    let mut alive = true;
    for _ in 0..1_000 {
        alive = alive && connection.write(&continuation).await;
    }
    target.is_well("after continuations").await;
    assert!(!alive || is_ended(&connection.rest(QUIET).await), "8 MB of headers are nothing");

    for (case, one, times) in [
        ("settings", frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]), 100_000),
        ("pings", frame(PING, 0, 0, &[0; 8]), 200_000),
        ("windows", frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes()), 200_000),
        ("empty data", frame(0, 0, 1, &[]), 100_000),
    ] {
        let mut connection = open(&target, &[]).await;
        connection.write(&frame(HEADERS, END_HEADERS, 1, &get("/api", &robot))).await;
        // Nobody reads what the server says to it.
        for _ in 0..times / 1_000 {
            if !connection.write(&one.repeat(1_000)).await {
                break;
            }
        }
        target.is_well(&format!("with many {case}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_do_not_unfold_without_measure() {
    let target = Target::start(&[]).await;
    let mut connection = open(&target, &[]).await;
    // One large header enters the table (0x40), and is then named by a byte each (0xbe).
    let mut entered = literal("x-bomb", &"a".repeat(3_900));
    entered[0] = 0x40;
    let bomb = [get("/api", ""), entered, vec![0xbe; 12_000]].concat();
    let mut alive = true;
    for i in 0..20 {
        alive = alive && connection.write(&frame(HEADERS, END_HEADERS | END_STREAM, 2 * i + 1, &bomb)).await;
    }
    let answer = connection.rest(QUIET).await;
    // 47 MB each: either 431, or an end of stream or connection; never an answer.
    let served = frames(&answer).iter().any(|(kind, payload)| *kind == HEADERS && payload.first() == Some(&0x88));
    assert!(!served, "a request with 47 MB of headers is served");
    target.is_well("after bombs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_do_not_read_get_no_more_than_a_bounded_share_of_memory() {
    let target = Target::start(&[]).await;
    let robot = target.robot().await;
    let mut idle = Vec::new();
    for _ in 0..10 {
        // No window at all: nothing of a body may be sent.
        let mut connection = open(&target, &[0, 4, 0, 0, 0, 0]).await;
        let requests = (0..90).flat_map(|i| frame(HEADERS, END_HEADERS | END_STREAM, 2 * i + 1, &get("/openapi/v2", &robot)));
        connection.write(&requests.collect::<Vec<u8>>()).await;
        idle.push(connection);
    }
    target.is_well("with 900 answers that nobody takes").await;
    drop(idle);
    target.is_well("afterwards").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_without_sense_do_no_harm() {
    let target = Target::start(&[]).await;
    let robot = target.robot().await;
    for seed in seeds(CASES) {
        let mut random = Random(seed);
        let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        for _ in 0..=random.below(20) {
            let (kind, flags, stream) = (random.below(12) as u8, random.next() as u8, random.below(9) as u32);
            let payload = match random.below(4) {
                0 => get("/api/v1/nodes", &robot),
                1 => Vec::new(),
                2 => random.next().to_be_bytes()[..random.below(9)].to_vec(),
                _ => {
                    let length = random.below(300);
                    random.bytes(length)
                }
            };
            bytes.extend(frame(kind, flags, stream, &payload));
        }
        if random.below(3) == 0 {
            random.mutate(&mut bytes);
        }
        let mut connection = target.way.connect("h2").await;
        connection.write(&bytes).await;
        connection.half_close().await;
        let answer = connection.rest(QUIET).await;
        // Statuses of the table: 500 is the only fault among them.
        let fault = frames(&answer).iter().any(|(kind, payload)| *kind == HEADERS && payload.first() == Some(&0x8e));
        assert!(!fault, "frames of seed {seed}");
    }
    target.is_well("after frames").await;
}
