//! Questions over loopback sockets, as `dig` asks them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use client::{Informer, Shutdown};
use dns::{Config, Server, View};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

struct Cluster {
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    namespaces: Informer<Namespace>,
    address: SocketAddr,
    shutdown: Shutdown,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

async fn cluster(upstream: Vec<SocketAddr>) -> Cluster {
    let (services, slices, namespaces) = (Informer::detached(), Informer::detached(), Informer::detached());
    let config =
        Config { bind: vec![SocketAddr::from(([127, 0, 0, 1], 0))], upstream, resolv_conf: "/dev/null".into(), ..Config::default() };
    let server = Server::bind(View::new(services.clone(), slices.clone(), namespaces.clone()), &config)
        .await
        .expect("loopback works and the test is well formed");
    let address = server.addresses()[0];
    let shutdown = Shutdown::new();
    tokio::spawn(server.serve(shutdown.clone()));
    let web = json!({"metadata": {"namespace": "default", "name": "web"}, "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "http", "port": 80}]}});
    services.apply(serde_json::from_value(web).expect("loopback works and the test is well formed"));
    namespaces.apply(serde_json::from_value(json!({"metadata": {"name": "default"}})).expect("loopback works and the test is well formed"));
    Cluster { services, slices, namespaces, address, shutdown }
}

impl Cluster {
    fn complete(self) -> Cluster {
        self.services.mark_synced();
        self.slices.mark_synced();
        self.namespaces.mark_synced();
        self
    }

    /// A headless Service with so many endpoints.
    fn headless(&self, name: &str, endpoints: u16) {
        let service = json!({"metadata": {"namespace": "default", "name": name}, "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80}]}});
        self.services.apply(serde_json::from_value(service).expect("loopback works and the test is well formed"));
        let endpoints: Vec<_> = (0..endpoints).map(|n| json!({"addresses": [format!("10.1.{}.{}", n / 256, n % 256)]})).collect();
        let slice = json!({"addressType": "IPv4", "metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": name}},
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}], "endpoints": endpoints});
        self.slices.apply(serde_json::from_value(slice).expect("loopback works and the test is well formed"));
    }

    async fn send(&self, question: &Message) -> Message {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("loopback works and the test is well formed");
        socket
            .send_to(&question.to_vec().expect("loopback works and the test is well formed"), self.address)
            .await
            .expect("loopback works and the test is well formed");
        let mut buffer = vec![0; 65536];
        let length = tokio::time::timeout(Duration::from_secs(5), socket.recv(&mut buffer))
            .await
            .expect("a reply")
            .expect("loopback works and the test is well formed");
        Message::from_vec(&buffer[..length]).expect("loopback works and the test is well formed")
    }

    async fn send_over_tcp(&self, question: &Message) -> Message {
        let mut stream = TcpStream::connect(self.address).await.expect("loopback works and the test is well formed");
        let bytes = question.to_vec().expect("loopback works and the test is well formed");
        stream.write_u16(bytes.len() as u16).await.expect("loopback works and the test is well formed");
        stream.write_all(&bytes).await.expect("loopback works and the test is well formed");
        let mut buffer = vec![0; stream.read_u16().await.expect("loopback works and the test is well formed").into()];
        stream.read_exact(&mut buffer).await.expect("loopback works and the test is well formed");
        Message::from_vec(&buffer).expect("loopback works and the test is well formed")
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Message {
        self.send(&question(name, kind)).await
    }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("loopback works and the test is well formed"), kind));
    message
}

fn data(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

#[tokio::test]
async fn a_service_is_found_over_udp_and_tcp() {
    let cluster = cluster(Vec::new()).await.complete();
    let question = question("web.default.svc.cluster.local.", RecordType::A);
    for reply in [cluster.send(&question).await, cluster.send_over_tcp(&question).await] {
        assert_eq!(data(&reply), ["10.96.0.1"]);
        assert_eq!((reply.metadata.id, reply.metadata.authoritative, reply.answers[0].ttl), (4711, true, 5));
        assert!(reply.metadata.recursion_desired && reply.metadata.recursion_available);
        assert_eq!(reply.queries, question.queries);
    }
}

#[tokio::test]
async fn nothing_comes_with_the_zones_word_about_it() {
    let cluster = cluster(Vec::new()).await.complete();
    let no_data = cluster.ask("web.default.svc.cluster.local.", RecordType::AAAA).await;
    assert_eq!(no_data.metadata.response_code, ResponseCode::NoError);
    let no_name = cluster.ask("no.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!(no_name.metadata.response_code, ResponseCode::NXDomain);
    for reply in [no_data, no_name] {
        assert!(reply.answers.is_empty());
        assert_eq!((reply.authorities[0].record_type(), reply.authorities[0].ttl), (RecordType::SOA, 5));
    }
}

#[tokio::test]
async fn until_everything_is_known_nothing_is_denied() {
    let cluster = cluster(Vec::new()).await;
    assert_eq!(cluster.ask("no.default.svc.cluster.local.", RecordType::A).await.metadata.response_code, ResponseCode::ServFail);
    let cluster = cluster.complete();
    assert_eq!(cluster.ask("no.default.svc.cluster.local.", RecordType::A).await.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn what_does_not_fit_is_cut_and_comes_whole_over_tcp() {
    let cluster = cluster(Vec::new()).await.complete();
    cluster.headless("many", 200);
    let mut asked = question("many.default.svc.cluster.local.", RecordType::A);
    let cut = cluster.send(&asked).await;
    assert!(cut.metadata.truncation && cut.answers.len() < 200 && !cut.answers.is_empty());
    assert_eq!(cluster.send_over_tcp(&asked).await.answers.len(), 200);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    asked.set_edns(edns);
    let whole = cluster.send(&asked).await;
    assert_eq!((whole.metadata.truncation, whole.answers.len(), whole.edns.is_some()), (false, 200, true));
    assert!(whole.answers.iter().all(|record| record.name == *asked.queries[0].name()));
    cluster.headless("thousands", 4000);
    let reply = cluster.send_over_tcp(&question("thousands.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!((reply.metadata.truncation, reply.answers.len()), (false, 4000));
    let services = cluster.send_over_tcp(&question("_http._tcp.thousands.default.svc.cluster.local.", RecordType::SRV)).await;
    assert!(services.metadata.truncation && services.answers.len() > 500, "{}", services.answers.len());
}

#[tokio::test]
async fn odd_questions_get_their_codes() {
    let cluster = cluster(Vec::new()).await.complete();
    let mut chaos = question("version.bind.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(cluster.send(&chaos).await.metadata.response_code, ResponseCode::Refused);
    let mut twice = question("a.cluster.local.", RecordType::A);
    twice.add_query(Query::query(Name::from_ascii("b.cluster.local.").expect("loopback works and the test is well formed"), RecordType::A));
    assert_eq!(cluster.send(&twice).await.metadata.response_code, ResponseCode::FormErr);
    let status = Message::new(1, MessageType::Query, OpCode::Status);
    assert_eq!(cluster.send(&status).await.metadata.response_code, ResponseCode::NotImp);
    let mut newer = question("web.default.svc.cluster.local.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    newer.set_edns(edns);
    assert_eq!(u16::from(cluster.send(&newer).await.metadata.response_code), u16::from(ResponseCode::BADVERS));
    assert_eq!(cluster.ask("example.com.", RecordType::A).await.metadata.response_code, ResponseCode::Refused);
}

/// An upstream server that knows one name, and counts.
async fn upstream() -> (SocketAddr, std::sync::Arc<std::sync::atomic::AtomicU32>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("loopback works and the test is well formed");
    let address = socket.local_addr().expect("loopback works and the test is well formed");
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counter = asked.clone();
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let question = Message::from_vec(&buffer[..length]).expect("loopback works and the test is well formed");
            let mut reply = Message::response(question.metadata.id, OpCode::Query);
            reply.queries = question.queries.clone();
            let name = question.queries[0].name().clone();
            if name.to_ascii() == "example.com." {
                reply.answers.push(Record::from_rdata(name, 300, RData::A(A::new(93, 184, 216, 34))));
            } else {
                reply.metadata.response_code = ResponseCode::NXDomain;
            }
            // A forged answer comes first.
            let mut forged = reply.clone();
            forged.metadata.id = reply.metadata.id.wrapping_add(1);
            forged.answers.clear();
            socket
                .send_to(&forged.to_vec().expect("loopback works and the test is well formed"), from)
                .await
                .expect("loopback works and the test is well formed");
            socket
                .send_to(&reply.to_vec().expect("loopback works and the test is well formed"), from)
                .await
                .expect("loopback works and the test is well formed");
        }
    });
    (address, asked)
}

#[tokio::test]
async fn other_names_are_asked_upstream_once() {
    let (server, asked) = upstream().await;
    let cluster = cluster(vec![server]).await.complete();
    for _ in 0..3 {
        let reply = cluster.ask("example.com.", RecordType::A).await;
        assert_eq!(data(&reply), ["93.184.216.34"]);
        assert!(!reply.metadata.authoritative);
        assert_eq!(reply.metadata.id, 4711);
    }
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 1);
    assert_eq!(cluster.ask("no.example.com.", RecordType::A).await.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn an_alias_is_followed_into_and_out_of_the_cluster() {
    let (server, _) = upstream().await;
    let cluster = cluster(vec![server]).await.complete();
    for (name, target) in [("out", "example.com"), ("in", "web.default.svc.cluster.local"), ("round", "round.default.svc.cluster.local")] {
        let service = json!({"metadata": {"namespace": "default", "name": name}, "spec": {"type": "ExternalName", "externalName": target}});
        cluster.services.apply(serde_json::from_value(service).expect("loopback works and the test is well formed"));
    }
    let out = cluster.ask("out.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!(data(&out), ["example.com.", "93.184.216.34"]);
    let inside = cluster.ask("in.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!(data(&inside), ["web.default.svc.cluster.local.", "10.96.0.1"]);
    let round = cluster.ask("round.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!(round.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn answers_come_at_once() {
    let cluster = cluster(Vec::new()).await.complete();
    for number in 0..1000 {
        cluster.headless(&format!("s{number}"), 10);
    }
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("loopback works and the test is well formed");
    socket.connect(cluster.address).await.expect("loopback works and the test is well formed");
    let mut buffer = vec![0; 4096];
    let mut took = Vec::new();
    for number in 0..2000 {
        let question = question(&format!("s{}.default.svc.cluster.local.", number % 1000), RecordType::A)
            .to_vec()
            .expect("loopback works and the test is well formed");
        let start = Instant::now();
        socket.send(&question).await.expect("loopback works and the test is well formed");
        socket.recv(&mut buffer).await.expect("loopback works and the test is well formed");
        took.push(start.elapsed());
    }
    took.sort();
    // The median is what a busy machine does not spoil.
    assert!(took[1000] < Duration::from_millis(5), "{:?}", took[1000]);
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "p50 {:?}, p99 {:?}", took[1000], took[1980]);
}
