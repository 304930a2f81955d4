//! Whether name servers are there, asked once, at the start.

use crate::io::clock;
use crate::time::Now;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// A question for the name servers of the root (RFC 1035 section 4.1), which every resolver knows.
const QUESTION: [u8; 17] = [
    0x52, 0x50, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, // recursion desired, one question
    0, 0, 2, 0, 1, // the root, NS, IN
];
const HEADER_BYTES: usize = 12;
const IS_REPLY: u8 = 0x80;

/// Those that say nothing at all within `wait`, with why. All are asked at once, and any reply is one.
pub fn silent(servers: &[SocketAddr], wait: Duration) -> Vec<(SocketAddr, io::Error)> {
    let asked: Vec<_> = servers.iter().map(|server| ask(*server)).collect();
    let deadline = clock::now() + wait;
    let heard = asked.into_iter().map(|socket| hear(&socket?, deadline));
    let told = servers.iter().copied().zip(heard);
    told.filter_map(|(server, heard)| Some((server, heard.err()?)))
        .collect()
}

fn ask(server: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.send(&QUESTION)?;
    Ok(socket)
}

fn hear(socket: &UdpSocket, deadline: Now) -> io::Result<()> {
    let mut reply = [0; 512];
    loop {
        // A time of zero would be none.
        let left = deadline.since(clock::now()).max(Duration::from_millis(1));
        socket.set_read_timeout(Some(left))?;
        let read = socket
            .recv(&mut reply)
            .map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
                _ => error,
            })?;
        let is_ours = reply[..2] == QUESTION[..2] && reply[2] & IS_REPLY != 0;
        if read >= HEADER_BYTES && is_ours {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_server_that_does_not_answer_is_told_from_one_that_refuses() {
        let bound = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (silent_one, refusing) = (bound(), bound());
        let nobody = bound().local_addr().unwrap();
        let servers = [
            refusing.local_addr().unwrap(),
            silent_one.local_addr().unwrap(),
            nobody,
        ];
        let answering = std::thread::spawn(move || {
            let mut reply = [0; 512];
            let (read, from) = refusing.recv_from(&mut reply).unwrap();
            (reply[2], reply[3]) = (reply[2] | IS_REPLY, 5);
            refusing.send_to(&reply[..read], from).unwrap();
        });
        let found = silent(&servers, Duration::from_millis(300));
        answering.join().unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|(server, error)| (*server, error.kind()))
            .collect();
        let expected = [
            (servers[1], io::ErrorKind::TimedOut),
            (nobody, io::ErrorKind::ConnectionRefused),
        ];
        assert_eq!(found, expected);
    }
}
