//! An accepted message is sent on, and the next hop, another machine of the strict kind, gets exactly
//! that message: one, with the same envelope and the same octets.

use ringpost::message::{Envelope, Mailbox, MessageId};
use ringpost::smtp::client::{
    Client, ClientSettings, ClientStep, RecipientVerdict, TlsWish, Transaction, TransactionResult,
};
use ringpost::smtp::server::{
    Claim, PeerInfo, Policy, Refusal, Rejection, Server, Settings, Spending, Step,
};
use std::net::IpAddr;
use std::rc::Rc;

const ID: MessageId = MessageId {
    run: 4,
    core: 5,
    sequence: 6,
};

struct TakesAll;

impl Policy for TakesAll {
    fn recipient(&self, _trusted: bool, _forward_path: &Mailbox) -> Result<(), Refusal> {
        Ok(())
    }

    fn postmaster(&self) -> Option<Mailbox> {
        None
    }

    fn admit(&self, _peer: &PeerInfo, _declared_bytes: Option<u64>) -> Result<(), Refusal> {
        Ok(())
    }

    fn share(&self, _: &PeerInfo, _: Claim<'_>, _: u64) -> Result<(), Refusal> {
        Ok(())
    }

    fn lists_starttls(&self, _peer: &PeerInfo, _hello: &str) -> bool {
        true
    }

    fn spend(&self, _peer: &PeerInfo, _what: Spending) -> Result<(), Refusal> {
        Ok(())
    }

    fn rejected(&self, _rejection: &Rejection<'_>) {}
}

pub fn check(envelope: &Envelope, body: &[u8]) {
    let mut hop = Hop::new();
    let mut client = Client::new(Rc::new(ClientSettings {
        hostname: "relay.test".to_owned(),
        starttls: TlsWish::Never,
        detect_loop: false,
    }));
    let all: Vec<u32> = (0..envelope.recipients.len() as u32).collect();
    let is_8bit = !body.is_ascii();
    let transaction = Transaction::of_wire_form(envelope, &all, body.len() as u64, is_8bit);
    let result = send(&mut client, &mut hop, &transaction, body);
    let is_accepted =
        |(_, verdict): &(u32, _)| matches!(verdict, RecipientVerdict::Accepted { .. });
    assert!(
        result.verdicts.iter().all(is_accepted),
        "{:?}",
        result.verdicts
    );
    let [(got, text)] = &hop.messages[..] else {
        panic!("{} messages arrived", hop.messages.len());
    };
    assert_eq!(text, body);
    assert_eq!(got.reverse_path, envelope.reverse_path);
    assert_eq!(got.recipients, envelope.recipients);
    assert_eq!((&got.envid, got.ret), (&envelope.envid, envelope.ret));
}

fn send(
    client: &mut Client,
    hop: &mut Hop,
    transaction: &Transaction<'_>,
    body: &[u8],
) -> TransactionResult {
    let mut to_hop = Vec::new();
    let mut to_client = Vec::new();
    hop.server.greet(&mut to_client);
    // Greeting, EHLO, the commands, the content: each needs few turns.
    for _ in 0..40 {
        let (consumed, step) = client.handle(&to_client, &mut to_hop);
        to_client.drain(..consumed);
        match step {
            ClientStep::NeedInput => {}
            ClientStep::Ready => client
                .begin(transaction, &mut to_hop)
                .expect("it can be sent"),
            ClientStep::SendBody => {
                to_hop.extend_from_slice(body);
                client.body_sent();
            }
            ClientStep::Done(result) => return result,
            other => panic!("{other:?}"),
        }
        hop.take(&std::mem::take(&mut to_hop), &mut to_client);
    }
    panic!("the transaction has no end");
}

struct Hop {
    server: Server,
    body: Vec<u8>,
    messages: Vec<(Envelope, Vec<u8>)>,
}

impl Hop {
    fn new() -> Self {
        let peer = PeerInfo {
            address: IpAddr::from([192, 0, 2, 2]),
            trusted: true,
            tls: None,
        };
        let mut settings = Settings::new("hop.test");
        // The relay's own field comes on top of those that it allows.
        settings.max_hops = 101;
        Hop {
            server: Server::new(Rc::new(settings), peer),
            body: Vec::new(),
            messages: Vec::new(),
        }
    }

    fn take(&mut self, mut input: &[u8], out: &mut Vec<u8>) {
        loop {
            let (consumed, step) = self.server.handle(input, &TakesAll, &mut self.body, out);
            input = &input[consumed..];
            match step {
                Step::NeedInput => return,
                Step::BeginBody => {}
                Step::EndOfData(envelope) => {
                    self.messages
                        .push((*envelope, std::mem::take(&mut self.body)));
                    self.server.committed(ID, out);
                }
                other => panic!("{other:?}: {}", String::from_utf8_lossy(out)),
            }
        }
    }
}
