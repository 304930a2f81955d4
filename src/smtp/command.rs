//! Command lines (RFC 5321 section 4.1.1 and the extensions that we offer): one line in, one
//! [`Command`] out, or the reason why not.
//!
//! Not here: whether the command is allowed now. `server` knows that.

use std::borrow::Cow;

use crate::domain::Domain;
use crate::message::{BodyType, Mailbox, Notify, Ret, ReversePath};

use super::address::{self, PathError};
use super::refusal::Refusal;
use super::refusals::*;
use super::reply::printable_str;
use super::xtext;

/// Octets of `ENVID=` (RFC 3461 section 4.4).
pub const ENVID_BYTES_MAX: usize = 100;
/// Octets of `ORCPT=` (RFC 3461 section 4.2).
pub const ORCPT_BYTES_MAX: usize = 500;
/// Digits of `SIZE=` (RFC 1870 section 5) and of a chunk size (RFC 3030 section 2).
pub const SIZE_DIGITS_MAX: usize = 20;
/// Octets of the argument of EHLO and HELO: a domain (RFC 5321 section 4.5.3.1.2).
pub const HELLO_BYTES_MAX: usize = address::DOMAIN_BYTES_MAX;

/// One command with its arguments checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command<'a> {
    /// Without control characters and at most [`HELLO_BYTES_MAX`] octets as sent; what is not UTF-8
    /// is U+FFFD. Not checked to be a domain: too many honest devices send none. See [`is_name_like`].
    Ehlo(Cow<'a, str>),
    Helo(Cow<'a, str>),
    Mail(MailCommand<'a>),
    Rcpt(RcptCommand<'a>),
    Data,
    /// RFC 3030. Exactly `chunk_bytes` octets follow the line, whatever becomes of the command.
    Bdat {
        chunk_bytes: u64,
        last: bool,
    },
    Rset,
    Noop,
    Quit,
    Vrfy,
    Expn,
    Help,
    /// RFC 3207.
    StartTls,
    /// RFC 4954, which we do not offer.
    Auth,
}

/// `MAIL FROM:` with its parameters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MailCommand<'a> {
    pub reverse_path: ReversePath,
    /// `SIZE=` (RFC 1870). Saturates: what does not fit in 64 bits is too large for anybody.
    pub declared_bytes: Option<u64>,
    pub body_type: Option<BodyType>,
    pub smtputf8: bool,
    pub ret: Option<Ret>,
    /// Xtext, at most [`ENVID_BYTES_MAX`] octets.
    pub envid: Option<Cow<'a, str>>,
}

/// `RCPT TO:` with its parameters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RcptCommand<'a> {
    pub forward_path: Mailbox,
    pub notify: Option<Notify>,
    /// Address type and xtext, at most [`ORCPT_BYTES_MAX`] octets. Not ASCII only with the `utf-8`
    /// address type (RFC 6533 section 3).
    pub orcpt: Option<Cow<'a, str>>,
}

/// Why a line is no command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CommandError {
    /// The verb is none of ours.
    Unknown,
    /// The line opens another protocol (HTTP): nothing that follows is meant for us.
    OtherProtocol,
    /// BDAT without a size that can be believed: nobody knows where the next command starts.
    ChunkSize,
    /// The verb is known, its arguments are not good.
    Refused(Refusal),
}

impl From<Refusal> for CommandError {
    fn from(refusal: Refusal) -> Self {
        CommandError::Refused(refusal)
    }
}

/// True if an argument of EHLO or HELO could be a host name or an address literal: one word of
/// ASCII.
pub fn is_name_like(hello: &str) -> bool {
    hello.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Parses a command line, given without its CRLF.
pub fn parse(line: &[u8]) -> Result<Command<'_>, CommandError> {
    parse_for(line, None)
}

/// As [`parse`]; a path without a domain gets `home`, if there is one.
pub fn parse_for<'a>(
    line: &'a [u8],
    home: Option<&Domain<'_>>,
) -> Result<Command<'a>, CommandError> {
    let text = match check_text(line) {
        Ok(text) => text,
        Err(_) if announces_chunk(line) => return Err(CommandError::ChunkSize),
        Err(refusal) => return hello_of_octets(line).ok_or(refusal.into()),
    };
    let (verb, arguments) = match text.split_once(' ') {
        Some((verb, arguments)) => (verb, arguments.trim_matches(' ')),
        None => (text, ""),
    };
    match verb.len() {
        4 => parse_four_letters(verb, arguments, home),
        _ if verb.eq_ignore_ascii_case("STARTTLS") => bare(Command::StartTls, arguments),
        _ => Err(unknown(verb)),
    }
}

/// True if octets that are no command may follow this line, even if the line is no good.
pub fn announces_chunk(line: &[u8]) -> bool {
    line.get(..4)
        .is_some_and(|verb| verb.eq_ignore_ascii_case(b"BDAT"))
}

/// True if the sender of this line would send content behind it, were it not refused.
pub fn asks_for_data(line: &[u8]) -> bool {
    let Some((verb, rest)) = line.split_at_checked(4) else {
        return false;
    };
    let is_longer_word = rest.first().is_some_and(u8::is_ascii_alphanumeric);
    verb.eq_ignore_ascii_case(b"DATA") && !is_longer_word
}

fn check_text(line: &[u8]) -> Result<&str, Refusal> {
    let is_control = |byte: u8| byte < b' ' || byte == 0x7f;
    // Without an early end, which lets the compiler compare many octets at once.
    if line
        .iter()
        .fold(false, |found, &byte| found | is_control(byte))
    {
        return Err(NOT_TEXT);
    }
    std::str::from_utf8(line).map_err(|_| NOT_UTF8)
}

/// EHLO or HELO with an argument in some other charset, or with tabs: device names of old.
fn hello_of_octets(line: &[u8]) -> Option<Command<'_>> {
    let (verb, [b' ', argument @ ..]) = line.split_at_checked(4)? else {
        return None;
    };
    let argument = argument.trim_ascii();
    let is_text = |byte: u8| byte == b'\t' || byte >= b' ' && byte != 0x7f;
    let fits = (1..=HELLO_BYTES_MAX).contains(&argument.len());
    if !fits || !argument.iter().all(|&byte| is_text(byte)) {
        return None;
    }
    let text = String::from_utf8_lossy(argument);
    let name = Cow::Owned(printable_str(&text).into_owned());
    match verb {
        verb if verb.eq_ignore_ascii_case(b"EHLO") => Some(Command::Ehlo(name)),
        verb if verb.eq_ignore_ascii_case(b"HELO") => Some(Command::Helo(name)),
        _ => None,
    }
}

fn parse_four_letters<'a>(
    verb: &str,
    arguments: &'a str,
    home: Option<&Domain<'_>>,
) -> Result<Command<'a>, CommandError> {
    let mut upper = [0; 4];
    upper.copy_from_slice(verb.as_bytes());
    upper.make_ascii_uppercase();
    match &upper {
        b"MAIL" => Ok(Command::Mail(parse_mail(arguments, home)?)),
        b"RCPT" => Ok(Command::Rcpt(parse_rcpt(arguments, home)?)),
        b"DATA" => bare(Command::Data, arguments),
        b"BDAT" => parse_bdat(arguments),
        b"RSET" => bare(Command::Rset, arguments),
        b"QUIT" => bare(Command::Quit, arguments),
        b"EHLO" => Ok(Command::Ehlo(parse_hello(arguments)?)),
        b"HELO" => Ok(Command::Helo(parse_hello(arguments)?)),
        b"NOOP" => Ok(Command::Noop),
        b"HELP" => Ok(Command::Help),
        b"VRFY" => Ok(Command::Vrfy),
        b"EXPN" => Ok(Command::Expn),
        b"AUTH" => Ok(Command::Auth),
        _ => Err(unknown(verb)),
    }
}

/// A browser, or somebody who abuses one, sends mail commands as the body of a request.
fn unknown(verb: &str) -> CommandError {
    const HTTP: [&str; 9] = [
        "GET", "POST", "PUT", "HEAD", "CONNECT", "OPTIONS", "DELETE", "PATCH", "TRACE",
    ];
    if HTTP.iter().any(|method| verb.eq_ignore_ascii_case(method)) {
        CommandError::OtherProtocol
    } else {
        CommandError::Unknown
    }
}

fn bare<'a>(command: Command<'a>, arguments: &str) -> Result<Command<'a>, CommandError> {
    if arguments.is_empty() {
        Ok(command)
    } else {
        Err(NO_ARGUMENTS.into())
    }
}

fn parse_hello(argument: &str) -> Result<Cow<'_, str>, Refusal> {
    match argument.len() {
        1..=HELLO_BYTES_MAX => Ok(printable_str(argument)),
        _ => Err(HELLO),
    }
}

fn parse_bdat(arguments: &str) -> Result<Command<'_>, CommandError> {
    let (size, last) = match arguments.split_once(' ') {
        Some((size, word)) if word.trim_start_matches(' ').eq_ignore_ascii_case("LAST") => {
            (size, true)
        }
        Some(_) => return Err(CommandError::ChunkSize),
        None => (arguments, false),
    };
    if size.is_empty() || size.len() > SIZE_DIGITS_MAX || !is_digits(size) {
        return Err(CommandError::ChunkSize);
    }
    let chunk_bytes = size.parse().map_err(|_| CommandError::ChunkSize)?;
    Ok(Command::Bdat { chunk_bytes, last })
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// What stands behind `keyword`, without spaces in front.
fn after_keyword<'a>(text: &'a str, keyword: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(keyword.len())?;
    head.eq_ignore_ascii_case(keyword)
        .then(|| rest.trim_start_matches(' '))
}

fn parse_mail<'a>(
    arguments: &'a str,
    home: Option<&Domain<'_>>,
) -> Result<MailCommand<'a>, Refusal> {
    let text = after_keyword(arguments, "FROM:").ok_or(MAIL_SYNTAX)?;
    let (reverse_path, parameters) =
        address::reverse_path_at(text, home).map_err(sender_refusal)?;
    let mut command = MailCommand {
        reverse_path,
        declared_bytes: None,
        body_type: None,
        smtputf8: false,
        ret: None,
        envid: None,
    };
    for parameter in words(parameters) {
        command.take(parameter)?;
    }
    let is_utf8 = command
        .reverse_path
        .as_ref()
        .is_some_and(Mailbox::needs_smtputf8);
    if is_utf8 && !command.smtputf8 {
        return Err(NEEDS_SMTPUTF8);
    }
    Ok(command)
}

fn parse_rcpt<'a>(
    arguments: &'a str,
    home: Option<&Domain<'_>>,
) -> Result<RcptCommand<'a>, Refusal> {
    let text = after_keyword(arguments, "TO:").ok_or(RCPT_SYNTAX)?;
    let (forward_path, parameters) =
        address::forward_path_at(text, home).map_err(recipient_refusal)?;
    let mut command = RcptCommand {
        forward_path,
        notify: None,
        orcpt: None,
    };
    for parameter in words(parameters) {
        command.take(parameter)?;
    }
    Ok(command)
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(' ').filter(|word| !word.is_empty())
}

fn sender_refusal(error: PathError) -> Refusal {
    match error {
        PathError::Syntax => BAD_SENDER,
        PathError::TooLong => LONG_SENDER,
        PathError::NoDomain => BARE_SENDER,
        PathError::InvalidDomain => INVALID_SENDER_DOMAIN,
    }
}

fn recipient_refusal(error: PathError) -> Refusal {
    match error {
        PathError::Syntax => BAD_RECIPIENT,
        PathError::TooLong => LONG_RECIPIENT,
        PathError::NoDomain => BARE_RECIPIENT,
        PathError::InvalidDomain => INVALID_RECIPIENT_DOMAIN,
    }
}

impl<'a> MailCommand<'a> {
    fn take(&mut self, parameter: &'a str) -> Result<(), Refusal> {
        let (keyword, value) = keyword_and_value(parameter);
        if keyword.eq_ignore_ascii_case("SIZE") {
            set_once(&mut self.declared_bytes, parse_size(value))
        } else if keyword.eq_ignore_ascii_case("BODY") {
            set_once(&mut self.body_type, parse_body_type(value))
        } else if keyword.eq_ignore_ascii_case("SMTPUTF8") {
            self.take_smtputf8(value)
        } else if keyword.eq_ignore_ascii_case("RET") {
            set_once(&mut self.ret, parse_ret(value))
        } else if keyword.eq_ignore_ascii_case("ENVID") {
            set_once(&mut self.envid, parse_envid(value))
        } else {
            Err(UNKNOWN_PARAMETER)
        }
    }

    fn take_smtputf8(&mut self, value: Option<&str>) -> Result<(), Refusal> {
        match (value, self.smtputf8) {
            (Some(_), _) => Err(BAD_PARAMETER),
            (None, true) => Err(DUPLICATE_PARAMETER),
            (None, false) => {
                self.smtputf8 = true;
                Ok(())
            }
        }
    }
}

impl<'a> RcptCommand<'a> {
    fn take(&mut self, parameter: &'a str) -> Result<(), Refusal> {
        let (keyword, value) = keyword_and_value(parameter);
        if keyword.eq_ignore_ascii_case("NOTIFY") {
            set_once(&mut self.notify, value.and_then(parse_notify))
        } else if keyword.eq_ignore_ascii_case("ORCPT") {
            set_once(&mut self.orcpt, value.and_then(parse_orcpt))
        } else {
            Err(UNKNOWN_PARAMETER)
        }
    }

    /// True if the path or a parameter is not ASCII, which needs SMTPUTF8 on MAIL.
    pub fn is_utf8(&self) -> bool {
        self.forward_path.needs_smtputf8()
            || self.orcpt.as_ref().is_some_and(|orcpt| !orcpt.is_ascii())
    }
}

fn keyword_and_value(parameter: &str) -> (&str, Option<&str>) {
    match parameter.split_once('=') {
        Some((keyword, value)) => (keyword, Some(value)),
        None => (parameter, None),
    }
}

fn set_once<T>(place: &mut Option<T>, value: Option<T>) -> Result<(), Refusal> {
    if place.is_some() {
        return Err(DUPLICATE_PARAMETER);
    }
    *place = Some(value.ok_or(BAD_PARAMETER)?);
    Ok(())
}

fn parse_size(value: Option<&str>) -> Option<u64> {
    let digits = value?;
    let good = !digits.is_empty() && digits.len() <= SIZE_DIGITS_MAX && is_digits(digits);
    good.then(|| digits.parse().unwrap_or(u64::MAX))
}

/// BINARYMIME is not offered, so it is a bad value.
fn parse_body_type(value: Option<&str>) -> Option<BodyType> {
    match value? {
        value if value.eq_ignore_ascii_case("8BITMIME") => Some(BodyType::EightBitMime),
        value if value.eq_ignore_ascii_case("7BIT") => Some(BodyType::SevenBit),
        _ => None,
    }
}

fn parse_ret(value: Option<&str>) -> Option<Ret> {
    match value? {
        value if value.eq_ignore_ascii_case("FULL") => Some(Ret::Full),
        value if value.eq_ignore_ascii_case("HDRS") => Some(Ret::Headers),
        _ => None,
    }
}

fn parse_envid(value: Option<&str>) -> Option<Cow<'_, str>> {
    let value = value.filter(|value| !value.is_empty())?;
    xtext::corrected(value, ENVID_BYTES_MAX)
}

/// RFC 3461 section 4.1: NEVER alone, or any of the others.
fn parse_notify(value: &str) -> Option<Notify> {
    let mut notify = Notify::NEVER;
    if value.eq_ignore_ascii_case("NEVER") {
        return Some(notify);
    }
    for word in value.split(',') {
        match word {
            _ if word.eq_ignore_ascii_case("SUCCESS") => notify.success = true,
            _ if word.eq_ignore_ascii_case("FAILURE") => notify.failure = true,
            _ if word.eq_ignore_ascii_case("DELAY") => notify.delay = true,
            _ => return None,
        }
    }
    Some(notify)
}

/// `addr-type ";" xtext` (RFC 3461 section 4.2); with the type `utf-8` also UTF-8 (RFC 6533).
fn parse_orcpt(value: &str) -> Option<Cow<'_, str>> {
    let (address_type, address) = value.split_once(';')?;
    let is_atom = !address_type.is_empty()
        && address_type
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !is_atom || address.is_empty() || value.len() > ORCPT_BYTES_MAX {
        return None;
    }
    if address_type.eq_ignore_ascii_case("utf-8") {
        let is_text = |c: char| !c.is_control() && c != '=' && c != ' ';
        return address.chars().all(is_text).then_some(value.into());
    }
    let room = ORCPT_BYTES_MAX - address_type.len() - 1;
    match xtext::corrected(address, room)? {
        Cow::Borrowed(_) => Some(value.into()),
        Cow::Owned(address) => Some(format!("{address_type};{address}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mail(line: &str) -> MailCommand<'_> {
        match parse(line.as_bytes()) {
            Ok(Command::Mail(command)) => command,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn rcpt(line: &str) -> RcptCommand<'_> {
        match parse(line.as_bytes()) {
            Ok(Command::Rcpt(command)) => command,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn refused(line: &str, code: u16) {
        match parse(line.as_bytes()) {
            Err(CommandError::Refused(refusal)) => assert_eq!(refusal.code, code, "{line}"),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn verbs_in_any_case() {
        assert_eq!(parse(b"data"), Ok(Command::Data));
        assert_eq!(parse(b"QuIt  "), Ok(Command::Quit));
        assert_eq!(parse(b"starttls"), Ok(Command::StartTls));
        assert_eq!(parse(b"NOOP whatever"), Ok(Command::Noop));
        assert_eq!(parse(b"ehlo a.test"), Ok(Command::Ehlo("a.test".into())));
        assert_eq!(
            parse(b"HELO [IPv6:::1] "),
            Ok(Command::Helo("[IPv6:::1]".into()))
        );
    }

    #[test]
    fn no_arguments_where_there_are_none() {
        for line in ["DATA x", "RSET x", "QUIT x", "STARTTLS x"] {
            refused(line, 501);
        }
    }

    #[test]
    fn unknown_and_foreign_verbs() {
        for line in [
            "",
            " ",
            "MAILFROM:<a@b>",
            "XYZW",
            "Subject: x",
            "STARTTLSX",
            " NOOP",
        ] {
            assert_eq!(parse(line.as_bytes()), Err(CommandError::Unknown), "{line}");
        }
        for line in [
            "GET / HTTP/1.1",
            "post /",
            "CONNECT a:25 HTTP/1.1",
            "HEAD /",
        ] {
            assert_eq!(
                parse(line.as_bytes()),
                Err(CommandError::OtherProtocol),
                "{line}"
            );
        }
    }

    #[test]
    fn hello_is_neither_empty_nor_endless() {
        for line in ["EHLO", "EHLO  "] {
            refused(line, 501);
        }
        refused(&format!("EHLO {}", "a".repeat(HELLO_BYTES_MAX + 1)), 501);
    }

    #[test]
    fn control_characters_are_refused() {
        for line in ["NO\0OP", "NOOP \r", "NOOP a\nb", "NOOP\t", "NOOP \u{7f}"] {
            refused(line, 500);
        }
        assert_eq!(parse(b"NOOP \xff"), Err(NOT_UTF8.into()));
    }

    #[test]
    fn mail_parameters() {
        let command =
            mail("MAIL from: <a@b> SIZE=1000 body=8bitmime SMTPUTF8  RET=HDRS ENVID=x+2By");
        assert_eq!(command.reverse_path.unwrap().as_str(), "a@b");
        assert_eq!(command.declared_bytes, Some(1000));
        assert_eq!(command.body_type, Some(BodyType::EightBitMime));
        assert!(command.smtputf8);
        assert_eq!(command.ret, Some(Ret::Headers));
        assert_eq!(command.envid.as_deref(), Some("x+2By"));
        assert_eq!(mail("MAIL FROM:<>").reverse_path, None);
        assert_eq!(mail("MAIL FROM:a@b SIZE=0").declared_bytes, Some(0));
    }

    #[test]
    fn huge_size_saturates() {
        let line = "MAIL FROM:<> SIZE=99999999999999999999";
        assert_eq!(mail(line).declared_bytes, Some(u64::MAX));
        refused("MAIL FROM:<> SIZE=999999999999999999999", 501);
    }

    #[test]
    fn bad_mail() {
        for line in [
            "MAIL",
            "MAIL <a@b>",
            "MAIL FROM",
            "MAIL FROM:",
            "MAIL FROM:<a",
            "MAIL FROM :<a@b>",
            "MAIL FROM:<a@b> SIZE",
            "MAIL FROM:<a@b> SIZE=",
            "MAIL FROM:<a@b> SIZE=-1",
            "MAIL FROM:<a@b> SIZE=1 SIZE=1",
            "MAIL FROM:<a@b> BODY=BINARYMIME",
            "MAIL FROM:<a@b> SMTPUTF8=1",
            "MAIL FROM:<a@b> SMTPUTF8 SMTPUTF8",
            "MAIL FROM:<a@b> RET=ALL",
            "MAIL FROM:<a@b> ENVID=",
            "MAIL FROM:<a@b> ENVID=é",
            "MAIL FROM:<root>",
            "MAIL FROM:<>>",
            "MAIL FROM:<a@b>SIZE=1",
        ] {
            refused(line, 501);
        }
        refused(
            &format!("MAIL FROM:<> ENVID={}", "x".repeat(ENVID_BYTES_MAX + 1)),
            501,
        );
        refused("MAIL FROM:<a@b> AUTH=<>", 555);
        refused("MAIL FROM:<a@b> x", 555);
        refused("MAIL FROM:<a@b> NOTIFY=NEVER", 555);
        refused("MAIL FROM:<é@b>", 553);
    }

    #[test]
    fn rcpt_parameters() {
        let command = rcpt("RCPT TO:<a@b> NOTIFY=success,Delay ORCPT=rfc822;x+2By@c");
        let expected = Notify {
            success: true,
            failure: false,
            delay: true,
        };
        assert_eq!(command.notify, Some(expected));
        assert_eq!(command.orcpt, Some("rfc822;x+2By@c".into()));
        assert_eq!(
            rcpt("RCPT TO:<a@b> NOTIFY=never").notify,
            Some(Notify::NEVER)
        );
        assert_eq!(rcpt("RCPT TO:<a@b>").notify, None);
        assert!(rcpt("RCPT TO:<a@b> ORCPT=utf-8;é@b").is_utf8());
        assert!(!command.is_utf8());
    }

    #[test]
    fn xtext_that_is_not_quite_is_put_right() {
        let orcpt = |given: &str| {
            let line = format!("RCPT TO:<a@b> ORCPT={given}");
            rcpt(&line).orcpt.map(Cow::into_owned)
        };
        for given in ["rfc822;user+tag@a.test", "rfc822;user+2btag@a.test"] {
            assert_eq!(orcpt(given).as_deref(), Some("rfc822;user+2Btag@a.test"));
        }
        assert_eq!(orcpt("rfc822;a=b@c").as_deref(), Some("rfc822;a+3Db@c"));
        assert_eq!(orcpt("utf-8;é+x@c").as_deref(), Some("utf-8;é+x@c"));
        let envid = |given: &str| {
            let line = format!("MAIL FROM:<a@b> ENVID={given}");
            mail(&line).envid.map(Cow::into_owned)
        };
        assert_eq!(envid("a=b+2b").as_deref(), Some("a+3Db+2B"));
        let long = "=".repeat(ENVID_BYTES_MAX / 3 + 1);
        refused(&format!("MAIL FROM:<> ENVID={long}"), 501);
    }

    #[test]
    fn any_text_may_say_hello() {
        let hello = |line: &[u8]| match parse(line) {
            Ok(Command::Ehlo(name) | Command::Helo(name)) => Some(name.into_owned()),
            _ => None,
        };
        assert_eq!(hello(b"EHLO my pc").as_deref(), Some("my pc"));
        assert_eq!(
            hello(b"helo  m\xfcller-pc ").as_deref(),
            Some("m\u{fffd}ller-pc")
        );
        assert_eq!(hello(b"EHLO a\tb").as_deref(), Some("a b"));
        assert_eq!(hello("EHLO müller".as_bytes()).as_deref(), Some("müller"));
        assert_eq!(
            hello("EHLO a\u{85}b\u{202e}c".as_bytes()).as_deref(),
            Some("a?b?c")
        );
        for bad in [
            &b"EHLO"[..],
            b"EHLO ",
            b"EHLO a\0b\xfc",
            b"EHLO\xfc",
            b"EHLO \t ",
            b"EHLO a\0",
        ] {
            assert_eq!(hello(bad), None, "{bad:?}");
        }
        let long = [b"EHLO ".as_slice(), &[0xfc; HELLO_BYTES_MAX + 1]].concat();
        assert_eq!(hello(&long), None);
        assert!(is_name_like("[IPv6:::1]") && !is_name_like("a b") && !is_name_like("é"));
    }

    #[test]
    fn a_path_without_a_domain_gets_that_of_the_house() {
        let home = Domain::parse("house.test").unwrap();
        let path = |line: &'static str| match parse_for(line.as_bytes(), Some(&home)) {
            Ok(Command::Mail(mail)) => mail.reverse_path.map(|path| path.to_string()),
            Ok(Command::Rcpt(rcpt)) => Some(rcpt.forward_path.to_string()),
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(path("MAIL FROM:<root>").as_deref(), Some("root@house.test"));
        assert_eq!(path("MAIL FROM:root").as_deref(), Some("root@house.test"));
        assert_eq!(path("MAIL FROM:<a@b> SIZE=1").as_deref(), Some("a@b"));
        assert_eq!(path("MAIL FROM:<>"), None);
        assert_eq!(path("RCPT TO:<root>").as_deref(), Some("root@house.test"));
        assert_eq!(
            path("RCPT TO:<\"a b\">").as_deref(),
            Some("\"a b\"@house.test")
        );
        assert_eq!(path("RCPT TO:<Postmaster>").as_deref(), Some("Postmaster"));
        assert!(parse_for(b"RCPT TO:<root@>", Some(&home)).is_err());
        assert!(parse_for(b"RCPT TO:<>", Some(&home)).is_err());
    }

    #[test]
    fn bad_rcpt() {
        for line in [
            "RCPT",
            "RCPT TO",
            "RCPT TO:",
            "RCPT TO:<>",
            "RCPT <a@b>",
            "RCPT TO:<root>",
            "RCPT TO:<a@b> NOTIFY",
            "RCPT TO:<a@b> NOTIFY=",
            "RCPT TO:<a@b> NOTIFY=NEVER,DELAY",
            "RCPT TO:<a@b> NOTIFY=DELAY,",
            "RCPT TO:<a@b> ORCPT=a@b",
            "RCPT TO:<a@b> ORCPT=;a@b",
            "RCPT TO:<a@b> ORCPT=rfc822;",
            "RCPT TO:<a@b> ORCPT=rfc822;é",
            "RCPT TO:<a@b> NOTIFY=DELAY NOTIFY=DELAY",
        ] {
            refused(line, 501);
        }
        let long = "x".repeat(ORCPT_BYTES_MAX - "rfc822;".len());
        rcpt(&format!("RCPT TO:<a@b> ORCPT=rfc822;{long}"));
        refused(&format!("RCPT TO:<a@b> ORCPT=rfc822;{long}x"), 501);
        refused("RCPT TO:<a@b> SIZE=1", 555);
    }

    #[test]
    fn chunks() {
        let bdat = |chunk_bytes, last| Ok(Command::Bdat { chunk_bytes, last });
        assert_eq!(parse(b"BDAT 0"), bdat(0, false));
        assert_eq!(parse(b"bdat 86 last"), bdat(86, true));
        assert_eq!(parse(b"BDAT 18446744073709551615"), bdat(u64::MAX, false));
        for line in [
            "BDAT",
            "BDAT x",
            "BDAT -1",
            "BDAT +1",
            "BDAT 1 FIRST",
            "BDAT 1 LAST x",
            "BDAT LAST",
            "BDAT 18446744073709551616",
            "BDAT 99999999999999999999",
            "BDAT 000000000000000000001",
            "BDAT\t5",
            "BDAT 5\0",
            "bdat 5\rX",
        ] {
            assert_eq!(
                parse(line.as_bytes()),
                Err(CommandError::ChunkSize),
                "{line}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_line_panics(line in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse(&line);
        }

        #[test]
        fn no_command_like_line_panics(
            line in r#"(MAIL FROM:|RCPT TO:|BDAT |EHLO )[<>@a.é" =+;0-9A-Z\[\]\\-]{0,40}"#,
        ) {
            let _ = parse(line.as_bytes());
        }
    }
}
