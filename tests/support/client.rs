//! A client that says what the test tells it, byte for byte.

use super::link::Link;
use std::net::SocketAddr;

pub struct Client {
    pub link: Link,
}

/// A reply: its code and all its lines.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    pub code: u16,
    pub text: String,
}

impl Client {
    /// Connects and reads the greeting.
    pub fn connect(address: SocketAddr) -> Self {
        let mut client = Self::connect_silently(address);
        let greeting = client.reply();
        assert_eq!(greeting.code, 220, "{greeting:?}");
        client
    }

    pub fn connect_silently(address: SocketAddr) -> Self {
        Client {
            link: Link::connect(address).expect("the relay listens"),
        }
    }

    /// Connects, says EHLO and STARTTLS, shakes hands, says EHLO again.
    pub fn connect_with_starttls(address: SocketAddr) -> Self {
        let mut client = Self::connect(address);
        let offers = client.expect("EHLO client.test", 250);
        assert!(offers.contains("STARTTLS"), "{offers}");
        client.expect("STARTTLS", 220);
        client.link.start_tls_as_client(b"").expect("a handshake");
        client.expect("EHLO client.test", 250);
        client
    }

    pub fn send(&mut self, text: &str) {
        self.link.send(text.as_bytes()).expect("the relay reads");
    }

    /// The next reply; `None` at the end of the stream.
    pub fn next_reply(&mut self) -> Option<Reply> {
        let mut text = String::new();
        loop {
            let line = self.link.line().expect("the connection lives")?;
            assert!(line.len() >= 3, "no reply: {line:?}");
            text.push_str(&line);
            if line.as_bytes().get(3) != Some(&b'-') {
                let code = line[..3].parse().expect("a reply code");
                return Some(Reply { code, text });
            }
            text.push('\n');
        }
    }

    pub fn reply(&mut self) -> Reply {
        self.next_reply().expect("a reply")
    }

    pub fn command(&mut self, line: &str) -> Reply {
        self.send(&format!("{line}\r\n"));
        self.reply()
    }

    /// The text of the reply, which must have this code.
    pub fn expect(&mut self, line: &str, code: u16) -> String {
        let reply = self.command(line);
        assert_eq!(reply.code, code, "to {line}: {}", reply.text);
        reply.text
    }

    pub fn expect_reply(&mut self, code: u16) -> String {
        let reply = self.reply();
        assert_eq!(reply.code, code, "{}", reply.text);
        reply.text
    }

    pub fn expect_end(&mut self) {
        let reply = self.next_reply();
        assert_eq!(reply, None, "the connection should have ended");
    }

    /// One message, command by command.
    pub fn mail(&mut self, from: &str, to: &[&str], content: &str) -> Reply {
        self.expect(&format!("MAIL FROM:<{from}>"), 250);
        for recipient in to {
            self.expect(&format!("RCPT TO:<{recipient}>"), 250);
        }
        self.expect("DATA", 354);
        self.command(&format!("{content}\r\n."))
    }

    /// As [`Client::mail`], and it must be accepted.
    pub fn accepted(&mut self, from: &str, to: &[&str], content: &str) {
        let reply = self.mail(from, to, content);
        assert_eq!(reply.code, 250, "{}", reply.text);
    }

    pub fn quit(mut self) {
        self.expect("QUIT", 221);
        self.expect_end();
    }
}

/// A connection, EHLO, one message that is accepted, QUIT.
pub fn send_mail(address: SocketAddr, from: &str, to: &[&str], content: &str) {
    let mut client = Client::connect(address);
    client.expect("EHLO client.test", 250);
    client.accepted(from, to, content);
    client.quit();
}

pub const CONTENT: &str = "Subject: test\r\n\r\nHello.";
