use proptest::prelude::*;

use super::*;

const RULES: Rules = Rules {
    bare_line_ends: BareLineEnds::Refuse,
    message_bytes_max: 1 << 20,
    line_bytes_max: 1 << 16,
    hops_max: 100,
};
const NORMALISE: Rules = Rules {
    bare_line_ends: BareLineEnds::Normalise,
    ..RULES
};

#[derive(Clone, PartialEq, Debug)]
enum Found {
    /// Body, content, octets consumed.
    Whole(String, Content, usize),
    Open,
    /// And the octets consumed.
    Refused(Violation, usize),
}

fn printed(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn run(scanner: &mut Scanner, pieces: &[&[u8]]) -> Found {
    let mut body = Vec::new();
    let mut before = 0;
    for piece in pieces {
        match scanner.feed(piece, &mut body) {
            (consumed, Progress::End) => {
                return Found::Whole(printed(&body), scanner.content(), before + consumed);
            }
            (consumed, Progress::Refused(violation)) => {
                return Found::Refused(violation, before + consumed);
            }
            (consumed, Progress::More) => {
                assert_eq!(consumed, piece.len());
                before += consumed;
            }
        }
    }
    if scanner.framing == Framing::Dot {
        return Found::Open;
    }
    match scanner.finish_chunks(&mut body) {
        Ok(()) => Found::Whole(printed(&body), scanner.content(), before),
        Err(violation) => Found::Refused(violation, before),
    }
}

/// Scans `input` whole, cut at every place, and octet by octet: all must agree.
fn everywhere(new: impl Fn() -> Scanner, input: &[u8]) -> Found {
    let whole = run(&mut new(), &[input]);
    for at in 0..=input.len() {
        let (head, tail) = input.split_at(at);
        assert_eq!(run(&mut new(), &[head, tail]), whole, "cut at {at}");
    }
    let octets: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(run(&mut new(), &octets), whole, "octet by octet");
    whole
}

fn data(rules: Rules, input: &[u8]) -> Found {
    everywhere(|| Scanner::for_data(rules), input)
}

fn chunks(rules: Rules, input: &[u8]) -> Found {
    everywhere(|| Scanner::for_chunks(rules), input)
}

fn body_of(found: Found) -> String {
    match found {
        Found::Whole(body, ..) => body,
        other => panic!("{other:?}"),
    }
}

fn content_of(found: Found) -> Content {
    match found {
        Found::Whole(_, content, _) => content,
        other => panic!("{other:?}"),
    }
}

/// Both modes: what Refuse says, and the body under Normalise of `input` and a proper end.
fn odd(input: &str, refused: Violation, at: usize, normalised: &str) {
    let input = input.as_bytes();
    assert_eq!(
        data(RULES, input),
        Found::Refused(refused, at),
        "{}",
        printed(input)
    );
    let ended = [input, b"x\r\n.\r\n"].concat();
    let body = body_of(data(NORMALISE, &ended));
    assert_eq!(body, printed(normalised.as_bytes()), "{}", printed(input));
}

#[test]
fn clean_data_is_kept_as_it_is() {
    let input = b"Subject: x\r\n\r\nfoo\r\n..bar\r\n.baz\r\n\r\n.\r\nQUIT\r\n";
    let end = input.len() - "QUIT\r\n".len();
    for rules in [RULES, NORMALISE] {
        match data(rules, input) {
            Found::Whole(body, content, consumed) => {
                assert_eq!(body, printed(&input[..end]));
                assert_eq!(consumed, end);
                assert_eq!(content.message_bytes, end as u64 - 3 - 2);
            }
            other => panic!("{other:?}"),
        }
    }
}

/// The body of content behind our field, by DATA and by BDAT, which must agree.
fn behind_field(rules: Rules, content: &str) -> String {
    let chunks = everywhere(
        || Scanner::for_chunks(rules).behind_field(),
        content.as_bytes(),
    );
    let wire = format!("{content}.\r\n");
    let data = everywhere(|| Scanner::for_data(rules).behind_field(), wire.as_bytes());
    let body = body_of(data);
    if !content.contains("\n.") && !content.starts_with('.') {
        assert_eq!(body, body_of(chunks), "{content:?}");
    }
    body
}

#[test]
fn content_cannot_continue_the_field_before_it() {
    let long_name = "x".repeat(FIRST_NAME_BYTES_MAX + 1);
    let long_name = format!("{long_name}: y\r\n");
    for text in [
        " for <b@victim.test>; forged\r\nSubject: x\r\n\r\nx\r\n",
        "\tid 1\r\n",
        " \r\nSubject: x\r\n",
        "",
        "Hello,\r\n\r\nworld\r\n",
        "Hello world: x\r\n",
        ": x\r\n",
        "\u{fc}: x\r\n",
        "\x0b: x\r\n",
        "..x: y\r\n",
        "From\tx\r\n",
        &long_name,
    ] {
        for rules in [RULES, NORMALISE] {
            let body = behind_field(rules, text);
            let expected = format!("\r\n{text}.\r\n");
            assert_eq!(body, printed(expected.as_bytes()), "{text:?}");
        }
    }
    for text in [
        "Subject: x\r\n\r\nx\r\n",
        "Subject : x\r\n",
        "Subject \t: x\r\n",
        "X-!#$%&'*+-/=?^_`{|}~.: x\r\n",
        "\r\nbody\r\n",
        "\r\n body\r\n",
        "From a@b.test Mon Jan  1 00:00:00 2026\r\nSubject: x\r\n",
        ">From a@b.test\r\nSubject: x\r\n",
        "From : a@b.test\r\n",
    ] {
        for rules in [RULES, NORMALISE] {
            let body = behind_field(rules, text);
            assert_eq!(body, printed(format!("{text}.\r\n").as_bytes()), "{text:?}");
        }
    }
}

#[test]
fn a_space_that_was_a_bare_cr_cannot_continue_the_field_before_it() {
    for (text, expected) in [
        ("\rfor x\r\n", "\r\n for x\r\n.\r\n"),
        ("\r\r\rfor x\r\n", "\r\n for x\r\n.\r\n"),
        ("\n for x\r\n", "\r\n for x\r\n.\r\n"),
        ("\r\r\n for x\r\n", "\r\n for x\r\n.\r\n"),
        ("A\r: x\r\n", "\r\nA : x\r\n.\r\n"),
    ] {
        let body = behind_field(NORMALISE, text);
        assert_eq!(body, printed(expected.as_bytes()), "{text:?}");
    }
}

#[test]
fn what_the_first_line_is_does_not_change_what_is_counted() {
    let count = |text: &str| {
        let input = text.as_bytes();
        content_of(everywhere(
            || Scanner::for_data(RULES).behind_field(),
            input,
        ))
    };
    let hops = |text| count(text).hops;
    assert_eq!(hops("Received: x\r\nReceived: y\r\n\r\n.\r\n"), 2);
    assert_eq!(hops(" x\r\nReceived: y\r\n\r\n.\r\n"), 0);
    assert_eq!(count(" x\r\n.\r\n").message_bytes, 4);
    assert_eq!(count(".\r\n").message_bytes, 0);
}

#[test]
fn octets_above_127_in_the_header_section_are_told_from_those_in_the_body() {
    for (text, header, whole) in [
        ("Subject: x\r\n\r\nx\r\n.\r\n", false, false),
        ("Subject: x\r\n\r\n\u{fc}\r\n.\r\n", false, true),
        ("Subject: \u{fc}\r\n\r\nx\r\n.\r\n", true, true),
        ("A: b\r\n \u{fc}\r\n\r\nx\r\n.\r\n", true, true),
        ("A: b\r\n..\u{fc}\r\n\r\nx\r\n.\r\n", true, true),
        ("\r\n\u{fc}\r\n.\r\n", false, true),
    ] {
        let content = content_of(data(RULES, text.as_bytes()));
        assert_eq!(
            (content.header_is_8bit, content.is_8bit),
            (header, whole),
            "{text:?}"
        );
    }
}

#[test]
fn dot_right_at_the_beginning_is_an_empty_message() {
    for rules in [RULES, NORMALISE] {
        let content = Content::default();
        let expected = Found::Whole(printed(b".\r\n"), content, 3);
        assert_eq!(data(rules, b".\r\nMAIL"), expected);
    }
}

#[test]
fn bare_lf_does_not_end_data() {
    odd("a\n.\n", Violation::BareLf, 1, "a\r\n..\r\nx\r\n.\r\n");
}

#[test]
fn lf_dot_crlf_does_not_end_data() {
    odd("a\n.\r\n", Violation::BareLf, 1, "a\r\n..\r\nx\r\n.\r\n");
}

#[test]
fn crlf_dot_lf_does_not_end_data() {
    odd("a\r\n.\n", Violation::BareLf, 4, "a\r\n..\r\nx\r\n.\r\n");
}

#[test]
fn cr_dot_cr_does_not_end_data() {
    odd("a\r.\r", Violation::BareCr, 2, "a . x\r\n.\r\n");
}

#[test]
fn cr_dot_crlf_does_not_end_data() {
    odd("a\r.\r\n", Violation::BareCr, 2, "a .\r\nx\r\n.\r\n");
}

#[test]
fn crlf_dot_cr_does_not_end_data() {
    odd("a\r\n.\ry", Violation::BareCr, 5, "a\r\n. yx\r\n.\r\n");
}

#[test]
fn crlf_dot_cr_cr_lf_does_not_end_data() {
    odd(
        "a\r\n.\r\r\n",
        Violation::BareCr,
        5,
        "a\r\n..\r\nx\r\n.\r\n",
    );
}

#[test]
fn cr_cr_lf_is_one_line_end_when_normalised() {
    odd(
        "a\r\r\r\nb\r\n",
        Violation::BareCr,
        2,
        "a\r\nb\r\nx\r\n.\r\n",
    );
}

#[test]
fn lf_cr_dot_is_no_end() {
    odd("a\n\r.\r\n", Violation::BareLf, 1, "a\r\n .\r\nx\r\n.\r\n");
}

#[test]
fn nul_before_the_dot_is_refused() {
    for rules in [RULES, NORMALISE] {
        let found = data(rules, b"a\r\n\0.\r\nx\r\n.\r\n");
        assert_eq!(found, Found::Refused(Violation::Nul, 3));
        let found = data(rules, b"a\r\n.\0\r\n.\r\n");
        assert_eq!(found, Found::Refused(Violation::Nul, 4));
        assert_eq!(chunks(rules, b"a\0"), Found::Refused(Violation::Nul, 1));
    }
}

#[test]
fn lone_dot_that_ends_nothing_is_remembered() {
    let mut scanner = Scanner::for_data(NORMALISE);
    let mut body = Vec::new();
    scanner.feed(b"a\n.\n", &mut body);
    assert!(scanner.may_be_over());
    scanner.feed(b"b", &mut body);
    assert!(!scanner.may_be_over());
}

#[test]
fn chunks_are_stuffed_and_ended() {
    assert_eq!(body_of(chunks(RULES, b"")), printed(b".\r\n"));
    assert_eq!(body_of(chunks(RULES, b"a")), printed(b"a\r\n.\r\n"));
    let found = body_of(chunks(RULES, b".a\r\n.\r\n..\r\n"));
    assert_eq!(found, printed(b"..a\r\n..\r\n...\r\n.\r\n"));
}

#[test]
fn bare_line_ends_in_chunks() {
    assert_eq!(
        chunks(RULES, b"a\n.\n"),
        Found::Refused(Violation::BareLf, 1)
    );
    assert_eq!(chunks(RULES, b"a\rb"), Found::Refused(Violation::BareCr, 2));
    assert_eq!(chunks(RULES, b"a\r"), Found::Refused(Violation::BareCr, 2));
    let found = body_of(chunks(NORMALISE, b"a\n.\n\rb\r"));
    assert_eq!(found, printed(b"a\r\n..\r\n b\r\n.\r\n"));
}

#[test]
fn hops_are_counted_in_the_header_only() {
    let input = b"Received: a\r\nX-Received: b\r\n\tReceived: c\r\nRECEIVED:d\r\nReceivedx:\r\n\r\nReceived: e\r\n.\r\n";
    assert_eq!(content_of(data(RULES, input)).hops, 2);
    let few = Rules {
        hops_max: 1,
        ..RULES
    };
    assert!(matches!(
        data(few, input),
        Found::Refused(Violation::TooManyHops, _)
    ));
    assert_eq!(content_of(chunks(RULES, &input[..input.len() - 3])).hops, 2);
}

/// Found by fuzzing: a CR that had become a space was passed over by the count.
#[test]
fn field_name_with_a_cr_in_it_is_no_hop() {
    for input in [
        "\rReceived: a\r\n",
        "Rec\reived: a\r\n",
        ".\rReceived: a\r\n",
    ] {
        let whole = data(NORMALISE, format!("{input}\r\n.\r\n").as_bytes());
        assert_eq!(content_of(whole).hops, 0, "{input:?}");
    }
}

#[test]
fn too_long_a_line_is_refused() {
    let short = Rules {
        line_bytes_max: 4,
        ..RULES
    };
    assert_eq!(content_of(data(short, b"abcd\r\n.\r\n")).message_bytes, 6);
    assert_eq!(
        data(short, b"abcde\r\n.\r\n"),
        Found::Refused(Violation::LineTooLong, 4)
    );
    assert_eq!(
        data(short, b"a\r\n..bcde\r\n.\r\n"),
        Found::Refused(Violation::LineTooLong, 8)
    );
    let short = Rules {
        line_bytes_max: 4,
        ..NORMALISE
    };
    for input in [&b"abcd\re\n"[..], b"abcd\r\r\re", b"ab\rcd"] {
        assert!(matches!(
            data(short, input),
            Found::Refused(Violation::LineTooLong, _)
        ));
    }
}

#[test]
fn size_counts_content_only() {
    let three = Rules {
        message_bytes_max: 3,
        ..RULES
    };
    assert_eq!(content_of(data(three, b"a\r\n.\r\n")).message_bytes, 3);
    assert_eq!(content_of(data(three, b"..\r\n.\r\n")).message_bytes, 3);
    for (input, consumed) in [
        (&b"ab\r\n.\r\n"[..], 4),
        (b"...\r\n.\r\n", 5),
        (b"abcdefgh", 4),
        (b"\r\n\r\n.\r\n", 4),
    ] {
        assert_eq!(
            data(three, input),
            Found::Refused(Violation::TooLarge, consumed),
            "{}",
            printed(input)
        );
    }
}

/// What follows is swallowed, and swallowing knows false ends that scanning does not: where one gives
/// way to the other decided whether the session went on.
#[test]
fn too_large_is_noticed_at_the_same_octet_however_it_arrives() {
    let three = Rules {
        message_bytes_max: 3,
        ..NORMALISE
    };
    let found = data(three, b"abcdef\n.\nQUIT\r\n.\r\n");
    assert_eq!(found, Found::Refused(Violation::TooLarge, 4));
}

#[test]
fn eight_bit_is_noticed() {
    assert!(content_of(data(RULES, b"\xe9\r\n.\r\n")).is_8bit);
    assert!(!content_of(data(RULES, b"e\r\n.\r\n\xe9")).is_8bit);
}

fn swallowed(input: &[u8]) -> (usize, Swallowed) {
    let new = || Scanner::for_data(RULES).into_swallower();
    let whole = new().feed(input);
    for at in 0..=input.len() {
        let mut swallower = new();
        let (head, tail) = input.split_at(at);
        let mut result = swallower.feed(head);
        if result.1 == Swallowed::More {
            let (consumed, found) = swallower.feed(tail);
            result = (at + consumed, found);
        }
        assert_eq!(result, whole, "cut at {at}");
    }
    whole
}

#[test]
fn refused_data_is_swallowed_to_its_end() {
    assert_eq!(swallowed(b"a\r\n..\r\n.\r\nQ"), (10, Swallowed::End));
    assert_eq!(swallowed(b".\r\nQ"), (3, Swallowed::End));
    assert_eq!(swallowed(b"a\nb\rc\r\r\n.\r\nQ"), (11, Swallowed::End));
    assert_eq!(swallowed(b"a\r\n.\rb\r\n.x\r\n"), (12, Swallowed::More));
}

#[test]
fn false_ends_of_refused_data_are_seen() {
    assert_eq!(swallowed(b"a\n.\nQ"), (4, Swallowed::FalseEnd));
    assert_eq!(swallowed(b"a\n.\r\nQ"), (5, Swallowed::FalseEnd));
    assert_eq!(swallowed(b"a\r\n.\nQ"), (5, Swallowed::FalseEnd));
}

#[test]
fn own_text_in_wire_form() {
    assert_eq!(to_wire_form(b"a\n.b\n\0"), b"a\r\n..b\r\n.\r\n");
    assert_eq!(from_wire_form(b"a\r\n..b\r\n.\r\n"), b"a\r\n.b\r\n");
}

/// Text in which everything that matters is frequent.
fn nasty() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => Just(&b"\r\n"[..]),
        3 => Just(&b"."[..]),
        2 => Just(&b"a"[..]),
        1 => Just(&b"\n"[..]),
        1 => Just(&b"\r"[..]),
        1 => Just(&b"\xe9"[..]),
        1 => Just(&b"\r\n.\r\n"[..]),
        1 => Just(&b"Received: "[..]),
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

fn clean_lines() -> impl Strategy<Value = Vec<u8>> {
    let line = proptest::collection::vec(prop_oneof![Just(b'.'), Just(b'a'), Just(0xe9)], 0..4);
    proptest::collection::vec(line, 0..8).prop_map(|lines| {
        lines
            .iter()
            .flat_map(|line| [line, &b"\r\n"[..]].concat())
            .collect()
    })
}

fn unescaped(rules: Rules, scanner: fn(Rules) -> Scanner, input: &[u8]) -> Option<Vec<u8>> {
    let mut scanner = scanner(rules);
    let mut body = Vec::new();
    let (_, progress) = scanner.feed(input, &mut body);
    let whole = match (scanner.framing, progress) {
        (Framing::Dot, progress) => progress == Progress::End,
        (Framing::Chunks, Progress::More) => scanner.finish_chunks(&mut body).is_ok(),
        _ => false,
    };
    if whole {
        let content = from_wire_form(&body);
        assert_eq!(scanner.content().message_bytes, content.len() as u64);
    }
    whole.then_some(body)
}

/// The promise of this module.
fn cannot_be_split(body: &[u8]) -> bool {
    // The trace header that stands in front ends in CRLF.
    let text = [b"\r\n", body].concat();
    let bare = (0..text.len()).any(|at| match text[at] {
        b'\r' => text.get(at + 1) != Some(&b'\n'),
        b'\n' => at == 0 || text[at - 1] != b'\r',
        byte => byte == 0,
    });
    let ends = text
        .windows(5)
        .filter(|window| window == b"\r\n.\r\n")
        .count();
    !bare && ends == 1 && text.ends_with(b"\r\n.\r\n")
}

/// The same among so much plain text that whole blocks are plain.
fn nasty_and_long() -> impl Strategy<Value = Vec<u8>> {
    let filler = (
        0usize..1500,
        prop_oneof![3 => 1usize..90, 1 => 90usize..400],
    )
        .prop_map(|(bytes, line_bytes)| {
            let line = [&b"x".repeat(line_bytes)[..], b"\r\n"].concat();
            line.iter()
                .copied()
                .cycle()
                .take(bytes)
                .collect::<Vec<u8>>()
        });
    proptest::collection::vec((filler, nasty()), 1..6).prop_map(|parts| {
        let parts = parts
            .into_iter()
            .flat_map(|(filler, nasty)| [filler, nasty]);
        [b"\r\n".to_vec()]
            .into_iter()
            .chain(parts)
            .flatten()
            .collect()
    })
}

/// What happens in `input` cut into pieces of so many octets.
fn in_pieces(mut scanner: Scanner, input: &[u8], octets: usize) -> Found {
    run(&mut scanner, &input.chunks(octets).collect::<Vec<_>>())
}

proptest! {
    #[test]
    fn blocks_give_what_octets_give(input in nasty_and_long(), octets in 129usize..1800) {
        let input = [&input[..], b"\r\n.\r\n"].concat();
        for rules in [RULES, NORMALISE, Rules { line_bytes_max: 600, ..RULES },
                      Rules { line_bytes_max: 300, ..NORMALISE },
                      Rules { message_bytes_max: 2000, ..NORMALISE }] {
            for new in [Scanner::for_data, Scanner::for_chunks] {
                let one_by_one = in_pieces(new(rules), &input, 1);
                prop_assert_eq!(&in_pieces(new(rules), &input, usize::MAX), &one_by_one);
                prop_assert_eq!(&in_pieces(new(rules), &input, octets), &one_by_one);
            }
        }
    }

    #[test]
    fn any_cut_gives_the_same(input in nasty()) {
        for rules in [RULES, NORMALISE, Rules { message_bytes_max: 12, ..NORMALISE },
                      Rules { line_bytes_max: 5, message_bytes_max: 20, hops_max: 0, ..RULES }] {
            data(rules, &input);
            chunks(rules, &input);
        }
        swallowed(&input);
    }

    #[test]
    fn what_is_accepted_cannot_be_split(input in nasty()) {
        for rules in [RULES, NORMALISE] {
            for scanner in [Scanner::for_data, Scanner::for_chunks] {
                let ended = [&input[..], b"\r\n.\r\n"].concat();
                for text in [&input, &ended] {
                    if let Some(body) = unescaped(rules, scanner, text) {
                        prop_assert!(cannot_be_split(&body), "{}", printed(&body));
                    }
                }
            }
        }
    }

    #[test]
    fn normalising_clean_data_changes_nothing(content in clean_lines()) {
        let wire = to_wire_form(&content);
        prop_assert_eq!(unescaped(NORMALISE, Scanner::for_data, &wire), Some(wire.clone()));
        prop_assert_eq!(unescaped(RULES, Scanner::for_data, &wire), Some(wire));
    }

    #[test]
    fn stuffing_and_unstuffing_are_inverse(content in clean_lines()) {
        let wire = to_wire_form(&content);
        prop_assert_eq!(from_wire_form(&wire), content);
        prop_assert_eq!(to_wire_form(&from_wire_form(&wire)), wire);
    }

    #[test]
    fn bdat_and_data_give_the_same_body(content in clean_lines()) {
        let wire = to_wire_form(&content);
        let by_data = unescaped(RULES, Scanner::for_data, &wire);
        let by_chunks = unescaped(RULES, Scanner::for_chunks, &content);
        prop_assert_eq!(by_data, by_chunks);
    }

    #[test]
    fn refused_data_ends_where_accepted_data_would(input in nasty()) {
        let input = [&input[..], b"\r\n.\r\n"].concat();
        let mut body = Vec::new();
        let (consumed, progress) = Scanner::for_data(NORMALISE).feed(&input, &mut body);
        let mut swallower = Scanner::for_data(NORMALISE).into_swallower();
        match swallower.feed(&input) {
            (swallowed, Swallowed::End) => {
                prop_assert_eq!((consumed, progress), (swallowed, Progress::End));
            }
            (swallowed, found) => {
                prop_assert_eq!(found, Swallowed::FalseEnd);
                prop_assert!(swallowed < consumed || progress != Progress::End);
            }
        }
    }
}
