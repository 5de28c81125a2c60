//! The health check that gRPC servers answer: what a gRPC probe asks. It stands here because this is where gRPC is spoken.

use std::marker::PhantomData;
use std::time::Duration;

use bytes::{Buf, BufMut};
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Endpoint;

use super::{Code, Error};

/// The status of a server that is well.
pub const SERVING: i32 = 1;
/// How soon a refused connection is tried again: a client of this protocol waits until somebody listens.
const RECONNECT: Duration = Duration::from_millis(100);

/// A status as the protocol calls it.
pub fn word(status: i32) -> &'static str {
    match status {
        0 => "UNKNOWN",
        SERVING => "SERVING",
        2 => "NOT_SERVING",
        _ => "SERVICE_UNKNOWN",
    }
}

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// The status of a service at an address. Without a limit of its own: whoever calls sets one.
pub async fn check(address: &str, service: &str) -> Result<i32, Error> {
    let invalid = |error: tonic::transport::Error| Error::new(Code::InvalidArgument, error.to_string());
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(invalid)?;
    let endpoint = endpoint.user_agent("kube-probe/1.37").map_err(invalid)?;
    let channel = loop {
        match endpoint.connect().await {
            Ok(channel) => break channel,
            Err(_) => tokio::time::sleep(RECONNECT).await,
        }
    };
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|error| Error::new(Code::Unavailable, error.to_string()))?;
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let request = tonic::Request::new(Request { service: service.to_owned() });
    let response: tonic::Response<Response> = client.unary(request, path, Messages(PhantomData::<(Request, Response)>)).await?;
    Ok(response.into_inner().status)
}

/// Writes one message type and reads another.
struct Messages<W, R>(PhantomData<(W, R)>);
struct Writer<W>(PhantomData<W>);
struct Reader<R>(PhantomData<R>);

impl<W: Message + Send + 'static, R: Message + Default + Send + 'static> Codec for Messages<W, R> {
    type Encode = W;
    type Decode = R;
    type Encoder = Writer<W>;
    type Decoder = Reader<R>;

    fn encoder(&mut self) -> Writer<W> {
        Writer(PhantomData)
    }

    fn decoder(&mut self) -> Reader<R> {
        Reader(PhantomData)
    }
}

impl<W: Message> Encoder for Writer<W> {
    type Item = W;
    type Error = Status;

    fn encode(&mut self, message: W, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&message.encode_to_vec());
        Ok(())
    }
}

impl<R: Message + Default> Decoder for Reader<R> {
    type Item = R;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<R>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        R::decode(bytes).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
