//! A name server for the sink's hosts, over UDP and TCP (RFC 1035; RFC 2308 for what is not there).
//! Promise: it only ever listens on the loopback, and answers nothing but its own names.
//! Not here: which domain has which hosts (`hosts`); what a message looks like (hickory-proto).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, MX, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};

use crate::figures::sink::DnsFigures;
use crate::host::workers::{self, Meter};
use crate::options::sink::MxOptions;
use crate::sink::hosts::{HOSTS_DOMAIN, Hosts, Known};

/// Largest datagram without EDNS (RFC 1035 section 4.2.1), and the largest that we send with it.
const PLAIN_BYTES_MAX: usize = 512;
const DATAGRAM_BYTES_MAX: usize = 4096;
/// Answers that wait for their latency, and TCP connections; beyond it questions are dropped.
const PENDING_MAX: usize = 100_000;
const CONNECTIONS_MAX: usize = 1_000;
/// A TCP connection without a question is closed after this long.
const IDLE: Duration = Duration::from_secs(30);
/// Pause after accept(2) failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Attempts to find a port that is free for UDP and TCP.
const PORT_ATTEMPTS: usize = 20;

/// A running name server; it ends when dropped.
pub struct NameServer {
    pub address: SocketAddr,
    server: Arc<Server>,
    meter: Meter,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

struct Server {
    zone: Zone,
    latency: Duration,
    pending: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    udp: AtomicU64,
    tcp: AtomicU64,
    negative: AtomicU64,
    truncated: AtomicU64,
    dropped: AtomicU64,
}

impl NameServer {
    /// Listens where `options` say, which must be on the loopback.
    pub fn start(options: &MxOptions, hosts: Arc<Hosts>) -> io::Result<Self> {
        if !options.dns_listen.ip().is_loopback() {
            return Err(io::Error::other("--dns-listen must be a loopback address"));
        }
        let runtime = workers::new_runtime()?;
        let (udp, tcp) = runtime.block_on(bind(options.dns_listen))?;
        let address = udp.local_addr()?;
        let server = Arc::new(Server {
            zone: Zone {
                hosts,
                ttl: options.dns_ttl,
            },
            latency: Duration::from_millis(options.dns_latency),
            pending: Arc::new(Semaphore::new(PENDING_MAX)),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            counters: Counters::default(),
        });
        let (stop, meter) = (watch::Sender::new(false), Meter::new(1));
        let mut stopped = stop.subscribe();
        let serving = server.clone();
        let work = async move {
            tokio::spawn(serve_udp(serving.clone(), Arc::new(udp)));
            tokio::spawn(serve_tcp(serving, tcp));
            let _ = stopped.wait_for(|&stop| stop).await;
        };
        let thread = workers::spawn("dns", runtime, meter.clone(), 0, work)?;
        Ok(Self {
            address,
            server,
            meter,
            stop,
            thread: Some(thread),
        })
    }

    pub fn figures(&self) -> DnsFigures {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.server.counters;
        DnsFigures {
            questions_udp: get(&counters.udp),
            questions_tcp: get(&counters.tcp),
            negative: get(&counters.negative),
            truncated: get(&counters.truncated),
            dropped: get(&counters.dropped),
            cpu_us: self.meter.cpu_us(),
        }
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The same port for UDP and TCP.
async fn bind(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut attempts = if address.port() == 0 {
        PORT_ATTEMPTS
    } else {
        1
    };
    loop {
        let udp = UdpSocket::bind(address).await?;
        match TcpListener::bind(udp.local_addr()?).await {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) if attempts <= 1 => return Err(error),
            Err(_) => attempts -= 1,
        }
    }
}

async fn serve_udp(server: Arc<Server>, socket: Arc<UdpSocket>) {
    let mut buffer = [0; DATAGRAM_BYTES_MAX];
    loop {
        // An error is that of an earlier answer whose receiver is gone.
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        count(&server.counters.udp);
        let Some(answer) = server.answer(&buffer[..length], true) else {
            continue;
        };
        if server.latency.is_zero() {
            let _ = socket.send_to(&answer, peer).await;
            continue;
        }
        let Ok(permit) = server.pending.clone().try_acquire_owned() else {
            count(&server.counters.dropped);
            continue;
        };
        let (socket, latency) = (socket.clone(), server.latency);
        tokio::spawn(async move {
            tokio::time::sleep(latency).await;
            let _ = socket.send_to(&answer, peer).await;
            drop(permit);
        });
    }
}

async fn serve_tcp(server: Arc<Server>, listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(permit) = server.connections.clone().try_acquire_owned() else {
            continue;
        };
        let server = server.clone();
        tokio::spawn(async move {
            let _ = converse(&server, stream).await;
            drop(permit);
        });
    }
}

/// One question after the other, each behind its length (RFC 1035 section 4.2.2).
async fn converse(server: &Server, mut stream: TcpStream) -> io::Result<()> {
    let mut question = Vec::new();
    loop {
        let length = tokio::time::timeout(IDLE, stream.read_u16()).await??;
        question.resize(usize::from(length), 0);
        tokio::time::timeout(IDLE, stream.read_exact(&mut question)).await??;
        count(&server.counters.tcp);
        let Some(answer) = server.answer(&question, false) else {
            return Ok(());
        };
        tokio::time::sleep(server.latency).await;
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let mut out = length.to_be_bytes().to_vec();
        out.extend_from_slice(&answer);
        stream.write_all(&out).await?;
    }
}

impl Server {
    fn answer(&self, question: &[u8], is_datagram: bool) -> Option<Vec<u8>> {
        let answer = self.encode(question, is_datagram);
        if answer.is_none() {
            count(&self.counters.dropped);
        }
        answer
    }

    /// `None`: what came is no question.
    fn encode(&self, question: &[u8], is_datagram: bool) -> Option<Vec<u8>> {
        let question = Message::from_vec(question).ok()?;
        let response = self.zone.respond(&question)?;
        if response.answers.is_empty() {
            count(&self.counters.negative);
        }
        let bytes = response.to_vec().ok()?;
        if !is_datagram || bytes.len() <= datagram_bytes_max(&question) {
            return Some(bytes);
        }
        count(&self.counters.truncated);
        response.truncate().to_vec().ok()
    }
}

/// RFC 6891 section 6.2.5.
fn datagram_bytes_max(question: &Message) -> usize {
    let offered = question.edns.as_ref().map_or(0, Edns::max_payload);
    usize::from(offered).clamp(PLAIN_BYTES_MAX, DATAGRAM_BYTES_MAX)
}

/// What is known, and for how long.
struct Zone {
    hosts: Arc<Hosts>,
    ttl: u32,
}

impl Zone {
    /// `None`: this is no question.
    fn respond(&self, question: &Message) -> Option<Message> {
        let asked = &question.metadata;
        if asked.message_type != MessageType::Query {
            return None;
        }
        let query = question.queries.first()?;
        let mut response = Message::response(asked.id, asked.op_code);
        response.metadata.recursion_desired = asked.recursion_desired;
        // Asked as a relay asks its resolver, it answers as one.
        response.metadata.recursion_available = true;
        response.metadata.authoritative = true;
        response.add_query(query.clone());
        if question.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(DATAGRAM_BYTES_MAX as u16);
            response.set_edns(edns);
        }
        let is_ours = asked.op_code == OpCode::Query && query.query_class() == DNSClass::IN;
        if !is_ours || question.queries.len() != 1 {
            response.metadata.response_code = ResponseCode::NotImp;
            return Some(response);
        }
        self.fill(query.name(), query.query_type(), &mut response);
        Some(response)
    }

    fn fill(&self, name: &Name, record_type: RecordType, response: &mut Message) {
        let known = self.hosts.find(&name.to_ascii());
        match (known, record_type) {
            (Some(Known::Domain(first)), RecordType::MX) => {
                for (preference, host, _) in self.hosts.mx_set(first) {
                    let Ok(host) = Name::from_ascii(format!("{host}.")) else {
                        continue;
                    };
                    let mx = RData::MX(MX::new(preference, host));
                    response.add_answer(Record::from_rdata(name.clone(), self.ttl, mx));
                }
            }
            (Some(Known::Host(host)), RecordType::A) => {
                let address = RData::A(A(self.hosts.address(host)));
                response.add_answer(Record::from_rdata(name.clone(), self.ttl, address));
            }
            (Some(_), _) => self.deny(response),
            (None, _) => {
                response.metadata.response_code = ResponseCode::NXDomain;
                self.deny(response);
            }
        }
    }

    /// The SOA record says how long the denial is good (RFC 2308 section 5).
    fn deny(&self, response: &mut Message) {
        let (Ok(zone), Ok(server)) = (
            Name::from_ascii("test."),
            Name::from_ascii(format!("ns.{HOSTS_DOMAIN}.")),
        ) else {
            return;
        };
        let soa = SOA::new(server.clone(), server, 1, 1, 1, 1, self.ttl);
        response.add_authority(Record::from_rdata(zone, self.ttl, RData::SOA(soa)));
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::hosts::tests::{hosts, options};
    use hickory_proto::op::Query;

    fn zone(domains: u64, flags: &str) -> Zone {
        Zone {
            hosts: Arc::new(hosts(domains, flags)),
            ttl: 77,
        }
    }

    fn question(name: &str, record_type: RecordType) -> Message {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), record_type));
        message
    }

    fn ask(zone: &Zone, name: &str, record_type: RecordType) -> Message {
        let question = question(name, record_type);
        let answer = zone.respond(&question).unwrap();
        assert_eq!(answer.metadata.id, question.metadata.id);
        Message::from_vec(&answer.to_vec().unwrap()).unwrap()
    }

    #[test]
    fn mx_records_lead_to_addresses() {
        let zone = zone(20, "--mx-hosts 2");
        let answer = ask(&zone, "D0003.Test.", RecordType::MX);
        assert_eq!(answer.answers.len(), 2);
        for (record, preference) in answer.answers.iter().zip([10, 20]) {
            assert_eq!(record.ttl, 77);
            let RData::MX(mx) = &record.data else {
                panic!("{record:?}");
            };
            assert_eq!(mx.preference, preference);
            let address = ask(&zone, &mx.exchange.to_ascii(), RecordType::A);
            let RData::A(A(address)) = address.answers[0].data else {
                panic!("{address:?}");
            };
            let host = zone.hosts.at(address.into());
            assert!(zone.hosts.takes(host, "user0@d0003.test"));
        }
    }

    #[test]
    fn what_is_not_there_is_denied_for_a_while() {
        let zone = zone(20, "--mx-hosts 1");
        for (name, record_type, code) in [
            ("d0020.test.", RecordType::MX, ResponseCode::NXDomain),
            (".", RecordType::MX, ResponseCode::NXDomain),
            ("d0003.test.", RecordType::A, ResponseCode::NoError),
            ("mx0.s3.mx.test.", RecordType::AAAA, ResponseCode::NoError),
            ("mx0.s3.mx.test.", RecordType::MX, ResponseCode::NoError),
        ] {
            let answer = ask(&zone, name, record_type);
            assert_eq!(answer.metadata.response_code, code, "{name}");
            assert!(answer.answers.is_empty(), "{name}");
            assert!(
                matches!(answer.authorities[0].data, RData::SOA(_)),
                "{name}"
            );
        }
    }

    #[test]
    fn only_questions_are_answered() {
        let zone = zone(1, "--mx-hosts 1");
        let answer = ask(&zone, "d0000.test.", RecordType::MX);
        assert_eq!(zone.respond(&answer), None);
        assert_eq!(zone.respond(&Message::query()), None);
        let mut update = question("d0000.test.", RecordType::MX);
        update.metadata.op_code = OpCode::Update;
        let refused = zone.respond(&update).unwrap();
        assert_eq!(refused.metadata.response_code, ResponseCode::NotImp);
    }

    fn start(flags: &str) -> NameServer {
        let options = options(flags);
        NameServer::start(&options, Arc::new(hosts(10, flags))).unwrap()
    }

    fn ask_by_udp(server: &NameServer, question: &[u8]) -> Message {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(question, server.address).unwrap();
        let mut buffer = [0; DATAGRAM_BYTES_MAX];
        let length = socket.recv(&mut buffer).unwrap();
        Message::from_vec(&buffer[..length]).unwrap()
    }

    fn ask_by_tcp(server: &NameServer, question: &[u8]) -> Message {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(server.address).unwrap();
        stream
            .write_all(&(question.len() as u16).to_be_bytes())
            .unwrap();
        stream.write_all(question).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer).unwrap();
        Message::from_vec(&answer).unwrap()
    }

    #[test]
    fn a_long_answer_is_cut_and_asked_for_again_by_tcp_or_with_edns() {
        let server = start("--mx-hosts 30");
        let mut question = question("d0007.test.", RecordType::MX);
        let plain = question.to_vec().unwrap();
        let cut = ask_by_udp(&server, &plain);
        assert!(cut.metadata.truncation && cut.answers.is_empty());
        assert_eq!(ask_by_tcp(&server, &plain).answers.len(), 30);
        question.set_edns(Edns::new().set_max_payload(4096).clone());
        let whole = ask_by_udp(&server, &question.to_vec().unwrap());
        assert!(!whole.metadata.truncation && whole.edns.is_some());
        assert_eq!(whole.answers.len(), 30);
        let figures = server.figures();
        assert_eq!((figures.questions_udp, figures.questions_tcp), (2, 1));
        assert_eq!((figures.truncated, figures.negative), (1, 0));
    }

    #[test]
    fn noise_is_counted_and_a_late_answer_comes() {
        let server = start("--mx-hosts 1 --dns-latency 20");
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(b"noise", server.address).unwrap();
        let question = question("nobody.test.", RecordType::MX).to_vec().unwrap();
        let denied = ask_by_udp(&server, &question);
        assert_eq!(denied.metadata.response_code, ResponseCode::NXDomain);
        let figures = server.figures();
        assert_eq!((figures.dropped, figures.negative), (1, 1));
    }

    #[test]
    fn other_machines_cannot_ask() {
        let mut options = options("--mx-hosts 1");
        options.dns_listen = "192.0.2.1:0".parse().unwrap();
        assert!(NameServer::start(&options, Arc::new(Hosts::one())).is_err());
    }
}
