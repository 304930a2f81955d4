//! Every negative reply of ours, in one place: what the protocol demands, and what a policy says no by.
//!
//! The rooms decide; what is said stands here, so that the words fit together and a reader of the log finds them.

use super::refusal::Refusal;

macro_rules! refusals {
    ($($(#[$about:meta])* $name:ident = $code:literal, $subject:literal, $detail:literal, $text:literal;)*) => {
        $($(#[$about])* pub const $name: Refusal = Refusal::new($code, $subject, $detail, $text);)*
    };
}

// The class of the enhanced status is the first digit of the code.

// Command lines.
refusals! {
    NOT_TEXT = 500, 5, 2, "Control characters in a command";
    NOT_UTF8 = 500, 5, 2, "Neither ASCII nor UTF-8";
    NO_ARGUMENTS = 501, 5, 4, "This command takes no arguments";
    HELLO = 501, 5, 4, "Your host name or address literal, please: one word of ASCII";
    MAIL_SYNTAX = 501, 5, 4, "Syntax: MAIL FROM:<address>";
    RCPT_SYNTAX = 501, 5, 4, "Syntax: RCPT TO:<address>";
    UNKNOWN_PARAMETER = 555, 5, 4, "Unknown parameter";
    DUPLICATE_PARAMETER = 501, 5, 4, "Parameter given twice";
    BAD_PARAMETER = 501, 5, 4, "Bad parameter value";
    BAD_SENDER = 501, 1, 7, "Bad sender address syntax";
    LONG_SENDER = 501, 1, 7, "Sender address too long";
    BARE_SENDER = 501, 1, 7, "Sender address needs a domain (--qualify-domain adds one for trusted clients)";
    BAD_RECIPIENT = 501, 1, 3, "Bad recipient address syntax";
    LONG_RECIPIENT = 501, 1, 3, "Recipient address too long";
    INVALID_SENDER_DOMAIN = 553, 1, 7, "The sender's domain is not a valid name";
    INVALID_RECIPIENT_DOMAIN = 553, 1, 3, "The recipient's domain is not a valid name";
    BARE_RECIPIENT = 501, 1, 3, "Recipient address needs a domain (--qualify-domain adds one for trusted clients)";
    NEEDS_SMTPUTF8 = 553, 6, 7, "Non-ASCII address without SMTPUTF8";
}

// The order of commands, and what is offered.
refusals! {
    UNKNOWN_COMMAND = 500, 5, 1, "Unknown command";
    LINE_TOO_LONG = 500, 5, 2, "Line too long";
    NO_EXPN = 502, 7, 0, "Lists are not expanded";
    NO_AUTH = 502, 5, 1, "Authentication is not offered";
    NO_CHUNKING = 502, 5, 1, "BDAT is not offered: send DATA";
    NO_STARTTLS = 502, 5, 1, "STARTTLS is not offered";
    TLS_ACTIVE = 503, 5, 1, "TLS is already active";
    HELLO_FIRST = 503, 5, 1, "EHLO first";
    MAIL_FIRST = 503, 5, 1, "MAIL first";
    RCPT_FIRST = 503, 5, 1, "RCPT first";
    NESTED_MAIL = 503, 5, 1, "A transaction is under way";
    IN_TRANSACTION = 503, 5, 1, "Not within a transaction";
    AMONG_CHUNKS = 503, 5, 1, "Not among chunks: BDAT or RSET";
    MUST_STARTTLS = 530, 7, 0, "Must issue a STARTTLS command first";
    NO_RECIPIENTS = 554, 5, 1, "No valid recipients";
    TOO_LARGE = 552, 3, 4, "Message too large";
    TOO_MANY_RECIPIENTS = 452, 5, 3, "Too many recipients";
    TOO_MANY_ERRORS = 421, 7, 0, "Too many errors";
    TOO_MANY_IDLE_COMMANDS = 421, 7, 0, "Too many commands without a message";
    TOO_MANY_SMALL_CHUNKS = 421, 7, 0, "Too many small chunks";
    TOO_MANY_REFUSALS = 421, 7, 0, "Too many refused commands";
    TOO_SLOW_IN_CROWD = 421, 3, 2, "Too busy to wait any longer, try later";
    TOO_MANY_TRANSACTIONS = 421, 7, 0, "Too many messages in this session";
    NOT_SMTP = 521, 5, 1, "This is an SMTP server";
    CHUNK_SIZE = 521, 5, 4, "Syntax: BDAT size [LAST]; cannot tell where this chunk ends";
    BARE_LF_IN_COMMAND = 521, 5, 2, "Bare <LF>: a command line ends with <CR><LF>";
    ENDLESS_LINE = 521, 5, 2, "Line without an end";
    TEXT_WITHOUT_354 = 521, 5, 1, "Message text where a command was expected";
    END_OF_DATA = 521, 5, 2, "Data ends with <CR><LF>.<CR><LF>, not with bare <LF>";
    BARE_CR = 550, 6, 0, "Bare <CR> in message: end its lines with <CR><LF>, or ask the receiving site for --bare-line-ends normalise";
    BARE_LF = 550, 6, 0, "Bare <LF> in message: end its lines with <CR><LF>, or ask the receiving site for --bare-line-ends normalise";
    NUL = 550, 6, 0, "NUL in message";
    TEXT_LINE_TOO_LONG = 554, 6, 0, "Line too long in message";
    TOO_MANY_HOPS = 554, 4, 6, "Too many hops: a mail loop";
    TIMED_OUT = 421, 4, 2, "Timed out";
    SHUTTING_DOWN = 421, 3, 2, "Shutting down";
}

// Recipients.
refusals! {
    RELAYING_DENIED = 554, 7, 1, "Relaying denied";
    UNKNOWN_RECIPIENT = 550, 1, 1, "No such recipient here";
    NO_POSTMASTER = 550, 1, 1, "This host has no postmaster of its own: name the domain";
    RECIPIENT_WITHOUT_DOMAIN = 501, 1, 3, "The recipient needs a domain";
}

// Rates of an address, and of all.
refusals! {
    TOO_MANY_HANDSHAKES = 421, 7, 0, "Too many TLS handshakes from your address, try later";
    TOO_MANY_HANDSHAKES_OF_ALL = 421, 7, 0, "Too many TLS handshakes, try later";
    MESSAGE_RATE = 450, 7, 0, "Too many messages from your address, try later";
    RECIPIENT_RATE = 450, 7, 0, "Too many recipients from your address, try later";
    ERROR_RATE = 421, 7, 0, "Too many errors from your address, try later";
}

// Room for mail.
refusals! {
    OUT_OF_MEMORY = 452, 3, 1, "Insufficient system memory, try later";
    SPOOL_FULL = 452, 3, 1, "Insufficient system storage, try later";
    DESTINATION_HAS_SHARE = 452, 3, 1, "Too much mail is waiting for this recipient's destination, try later";
    ORIGIN_HAS_SHARE = 452, 3, 1, "Too much of your mail is waiting, try later";
    ENVELOPE_TOO_LARGE = 552, 3, 4, "The envelope is too large";
    SPOOL_CLOSING = 421, 3, 2, "The relay is shutting down, try later";
    SPOOL_FAILED = 451, 3, 0, "Local error in storing the message, try later";
}

// In the place of a greeting: our name comes before the text, and what to do behind it.
refusals! {
    TOO_MANY_CONNECTIONS = 421, 3, 2, "too many connections";
    LAST_CONNECTIONS_RESERVED = 421, 3, 2, "too many connections, the last places are reserved";
    TOO_MANY_CONNECTIONS_OF_ADDRESS = 421, 7, 0, "too many connections from this address";
    CONNECTION_RATE = 421, 7, 0, "too many new connections";
    CONNECTIONS_OF_WHO_ERRS = 421, 7, 0, "too many errors from this address";
    CONNECTIONS_WITHOUT_MEMORY = 421, 3, 2, "out of memory";
    CONNECTIONS_AT_THE_END = 421, 3, 2, "shutting down";
}
