//! HTTP for whoever looks at the relay: a thread of its own, which answers GET and HEAD from a function.
//!
//! Promise: what comes is bounded in number, size and time, and no core waits for any of it.
//! Not here: what is answered.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// Connections at a time. What comes beyond is closed at once.
const CONNECTIONS_MAX: usize = 64;

/// How long a request may take to come, ...
const REQUEST_WITHIN: Duration = Duration::from_secs(10);
/// ... and its header section, at most so many octets.
const REQUEST_BYTES_MAX: usize = 16 << 10;

/// How long a connection lives. Whoever asks every few seconds makes a new one now and then.
const CONNECTION_WITHIN: Duration = Duration::from_secs(300);

/// Before the next try to accept, if there are no descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What is said to a request.
pub struct Answer {
    /// 200 to 599.
    pub status: u16,
    pub content_type: &'static str,
    pub body: String,
}

impl Answer {
    /// One line of text.
    pub fn line(status: u16, text: &str) -> Answer {
        Answer {
            status,
            content_type: "text/plain; charset=utf-8",
            body: format!("{text}\n"),
        }
    }
}

/// Starts the thread, which lives as long as the process. `answer` gets the path, without a query; it is called on that
/// thread and may block it.
///
/// # Errors
/// There can be no more threads or descriptors.
pub fn serve(
    listener: TcpListener,
    answer: impl Fn(&str) -> Answer + Send + Sync + 'static,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let work = move || runtime.block_on(accept(listener, Arc::new(answer)));
    let thread = thread::Builder::new().name("http".to_owned());
    thread.spawn(work).map(drop)
}

async fn accept<A>(listener: TcpListener, answer: Arc<A>)
where
    A: Fn(&str) -> Answer + Send + Sync + 'static,
{
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
        return;
    };
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_AGAIN).await;
            continue;
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            continue;
        };
        let answer = answer.clone();
        tokio::spawn(async move {
            // An end that is not in good order concerns nobody.
            let _ = tokio::time::timeout(CONNECTION_WITHIN, connection(stream, answer)).await;
            drop(place);
        });
    }
}

async fn connection<A>(stream: TcpStream, answer: Arc<A>) -> Result<(), hyper::Error>
where
    A: Fn(&str) -> Answer + Send + Sync + 'static,
{
    let respond = service_fn(move |request| {
        let response = response(&request, &*answer);
        async { Ok::<_, Infallible>(response) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_WITHIN)
        .max_buf_size(REQUEST_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), respond)
        .await
}

fn response<B>(request: &Request<B>, answer: impl Fn(&str) -> Answer) -> Response<Full<Bytes>> {
    let is_known = [Method::GET, Method::HEAD].contains(request.method());
    let said = match is_known {
        true => answer(request.uri().path()),
        false => Answer::line(405, "only GET and HEAD"),
    };
    let mut response = Response::new(Full::from(said.body));
    *response.status_mut() =
        StatusCode::from_u16(said.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    let content_type = HeaderValue::from_static(said.content_type);
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if !is_known {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}
