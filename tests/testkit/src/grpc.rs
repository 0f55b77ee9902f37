use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// How a [`GrpcServer`] answers a call.
#[derive(Clone)]
pub enum GrpcReply {
    /// This message.
    Message(Vec<u8>),
    /// No message but the number of a status.
    Status(&'static str),
    /// Nothing, ever.
    Silence,
}

/// The path and the message of every call.
type Asked = Arc<Mutex<Vec<(String, Vec<u8>)>>>;
/// The answer to calls of a path.
type Replies = Arc<dyn Fn(&str) -> GrpcReply + Send + Sync>;

/// A server of gRPC on this machine that notes what it is asked and answers what it is told to.
pub struct GrpcServer {
    /// Where it listens.
    pub address: SocketAddr,
    asked: Asked,
    _runtime: Runtime,
}

impl GrpcServer {
    /// Answers calls by their paths until it is dropped.
    pub fn start(replies: impl Fn(&str) -> GrpcReply + Send + Sync + 'static) -> Self {
        let runtime = Runtime::new().expect("threads can be started");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"));
        let listener = listener.expect("this machine has a free port");
        let address = listener.local_addr().expect("it is bound");
        let asked = Asked::default();
        runtime.spawn(serve(listener, Arc::new(replies), Arc::clone(&asked)));
        Self {
            address,
            asked,
            _runtime: runtime,
        }
    }

    /// What it was asked until now.
    pub fn asked(&self) -> Vec<(String, Vec<u8>)> {
        self.asked.lock().expect("nobody panics holding it").clone()
    }
}

async fn serve(listener: TcpListener, replies: Replies, asked: Asked) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(connection(stream, Arc::clone(&replies), Arc::clone(&asked)));
    }
}

/// Answers the calls of a connection until its client is gone.
async fn connection(stream: TcpStream, replies: Replies, asked: Asked) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(call) = connection.accept().await {
        let (request, respond) = call?;
        let reply = replies(request.uri().path());
        tokio::spawn(answer(request, respond, reply, Arc::clone(&asked)));
    }
    Ok(())
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    reply: GrpcReply,
    asked: Asked,
) -> Result<(), h2::Error> {
    let path = request.uri().path().to_owned();
    let (mut body, mut message) = (request.into_body(), Vec::new());
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        message.extend_from_slice(&data);
    }
    // A message follows one byte for compression, and four for its length.
    let call = (path, message.split_off(5));
    asked.lock().expect("nobody panics holding it").push(call);
    let (message, status) = match reply {
        GrpcReply::Message(message) => (Some(message), "0"),
        GrpcReply::Status(status) => (None, status),
        GrpcReply::Silence => {
            poll_fn(|context| respond.poll_reset(context)).await?;
            return Ok(());
        }
    };
    let mut head = Response::new(());
    let kind = HeaderValue::from_static("application/grpc");
    head.headers_mut().insert(CONTENT_TYPE, kind);
    let mut stream = respond.send_response(head, false)?;
    if let Some(message) = message {
        let length = (message.len() as u32).to_be_bytes();
        let data = [&[0], &length[..], &message].concat();
        stream.send_data(data.into(), false)?;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    stream.send_trailers(trailers)
}
