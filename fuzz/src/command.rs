//! Command lines: what comes out is bounded and printable, and reads back as the same.

use ringpost::message::{BodyType, Ret};
use ringpost::smtp::command::{
    Command, ENVID_BYTES_MAX, HELLO_BYTES_MAX, MailCommand, ORCPT_BYTES_MAX, RcptCommand, parse,
};

use super::address;

pub fn run(line: &[u8]) {
    match parse(line) {
        Ok(Command::Ehlo(name) | Command::Helo(name)) => {
            assert!(!name.is_empty() && name.len() <= HELLO_BYTES_MAX);
            assert!(!name.chars().any(char::is_control));
        }
        Ok(Command::Mail(mail)) => check_mail(&mail),
        Ok(Command::Rcpt(rcpt)) => check_rcpt(&rcpt),
        Ok(_) | Err(_) => {}
    }
    if parse(line).is_ok() {
        assert!(line.iter().all(|octet| *octet >= b' ' && *octet != 0x7f));
    }
}

fn check_mail(mail: &MailCommand<'_>) {
    let path = mail.reverse_path.as_ref();
    path.into_iter().for_each(address::check);
    assert!(
        mail.envid
            .as_deref()
            .is_none_or(|it| it.len() <= ENVID_BYTES_MAX && is_word(it))
    );
    assert!(mail.smtputf8 || path.is_none_or(|path| !path.needs_smtputf8()));
    let written = write_mail(mail);
    assert_eq!(
        parse(written.as_bytes()),
        Ok(Command::Mail(mail.clone())),
        "{written}"
    );
}

fn write_mail(mail: &MailCommand<'_>) -> String {
    let path = mail.reverse_path.as_ref().map_or("", |path| path.as_str());
    let mut line = format!("MAIL FROM:<{path}>");
    if let Some(bytes) = mail.declared_bytes {
        line += &format!(" SIZE={bytes}");
    }
    line += match mail.body_type {
        Some(BodyType::EightBitMime) => " BODY=8BITMIME",
        Some(BodyType::SevenBit) => " BODY=7BIT",
        None => "",
    };
    line += if mail.smtputf8 { " SMTPUTF8" } else { "" };
    line += match mail.ret {
        Some(Ret::Full) => " RET=FULL",
        Some(Ret::Headers) => " RET=HDRS",
        None => "",
    };
    if let Some(envid) = &mail.envid {
        line += &format!(" ENVID={envid}");
    }
    line
}

fn check_rcpt(rcpt: &RcptCommand<'_>) {
    address::check(&rcpt.forward_path);
    assert!(
        rcpt.orcpt
            .as_deref()
            .is_none_or(|it| it.len() <= ORCPT_BYTES_MAX && is_word(it))
    );
    let written = write_rcpt(rcpt);
    assert_eq!(
        parse(written.as_bytes()),
        Ok(Command::Rcpt(rcpt.clone())),
        "{written}"
    );
}

fn write_rcpt(rcpt: &RcptCommand<'_>) -> String {
    let mut line = format!("RCPT TO:<{}>", rcpt.forward_path);
    if let Some(notify) = rcpt.notify {
        let words = [
            (notify.success, "SUCCESS"),
            (notify.failure, "FAILURE"),
            (notify.delay, "DELAY"),
        ];
        let wanted: Vec<_> = words.iter().filter(|(is_wanted, _)| *is_wanted).collect();
        let list: Vec<_> = wanted.iter().map(|(_, word)| *word).collect();
        line += " NOTIFY=";
        line += &if list.is_empty() {
            "NEVER".to_owned()
        } else {
            list.join(",")
        };
    }
    if let Some(orcpt) = &rcpt.orcpt {
        line += &format!(" ORCPT={orcpt}");
    }
    line
}

/// Neither ends a parameter nor a command.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| !c.is_control() && c != ' ')
}
