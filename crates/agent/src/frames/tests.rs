//! Every frame there and back, every limit, and bytes that are none.

use proptest::prelude::*;

use super::*;

fn samples() -> Vec<Message<'static>> {
    let terminal = TerminalRequest {
        name: "xterm".to_owned(),
        size: WindowSize { columns: 80, rows: 24, width_px: 0, height_px: 0 },
        modes: vec![(1, 3), (53, 1)],
    };
    let open = |target| {
        Frame::Open(OpenRequest { target, variables: vec![("LANG".to_owned(), "C".to_owned())] })
    };
    let frames = vec![
        Frame::Hello { version: PROTOCOL_VERSION },
        open(OpenTarget::Shell { terminal: Some(terminal.clone()) }),
        open(OpenTarget::Exec { command: b"true".to_vec(), terminal: None }),
        open(OpenTarget::Sftp),
        open(OpenTarget::Dial { host: "localhost".to_owned(), port: 80 }),
        open(OpenTarget::DialUnix { path: "/run/a.sock".to_owned() }),
        open(OpenTarget::Listen { port: 0 }),
        open(OpenTarget::ListenUnix { path: "/b".to_owned(), place: SocketPlace::Given }),
        open(OpenTarget::ListenUnix { path: "/c/d".to_owned(), place: SocketPlace::FreshFolder }),
        open(OpenTarget::Accept { token: u32::MAX }),
        Frame::Listening { port: 8080 },
        Frame::Incoming(Incoming { token: 3, port: 50_000, peer: "127.0.0.1" }),
        Frame::Opened,
        Frame::Refused("no such address"),
        Frame::Data(b"\0\x01\x02"),
        Frame::ErrorData(b"oops"),
        Frame::Eof,
        Frame::Credit(7),
        Frame::Resize(terminal.size),
        Frame::Signal(15),
        Frame::Exit(Exit::Code(255)),
        Frame::Exit(Exit::Signal { number: 11, core_dumped: true }),
        Frame::Close,
    ];
    (1..).zip(frames).map(|(channel, frame)| Message { channel, frame }).collect()
}

/// A frame that reads back as another would run the wrong command or lose output.
#[test]
fn every_frame_survives_its_bytes() {
    let mut bytes = Vec::new();
    for message in samples() {
        encode(message.channel, &message.frame, &mut bytes);
    }
    let mut rest = bytes.as_slice();
    for message in samples() {
        let (read, taken) = parse(rest).expect("valid").expect("complete");
        assert_eq!(read, message);
        rest = &rest[taken..];
    }
    assert!(rest.is_empty());
}

/// A prefix of a frame taken for a whole one would shift every later frame.
#[test]
fn an_incomplete_frame_waits() {
    for message in samples() {
        let bytes = to_vec(message.channel, &message.frame);
        for end in 0..bytes.len() {
            assert_eq!(parse(&bytes[..end]), Ok(None), "{message:?} cut at {end}");
        }
    }
}

/// A length that is believed before it is checked is the reader's memory in the sender's hands.
#[test]
fn lengths_are_refused_from_the_header_alone() {
    let mut header = vec![kind::DATA, 0, 0, 0, 1];
    let over = u32::try_from(FRAME_LEN_MAX + 1).expect("fits");
    header.extend_from_slice(&over.to_be_bytes());
    assert_eq!(parse(&header), Err(FrameError::TooLong(FRAME_LEN_MAX + 1)));
    let longest = vec![7; FRAME_LEN_MAX];
    let bytes = to_vec(1, &Frame::Data(&longest));
    assert!(matches!(parse(&bytes), Ok(Some((_, taken))) if taken == bytes.len()));
}

/// Frames that cost the sender nothing must not exist, and payloads must fit their kind exactly.
#[test]
fn malformed_payloads_are_refused() {
    let frame = |kind: u8, payload: &[u8]| {
        let mut bytes = to_vec(1, &Frame::Data(b"x"));
        bytes.truncate(HEADER_LEN);
        bytes.extend_from_slice(payload);
        patch_header(0, kind, 1, &mut bytes);
        parse(&bytes).map(|read| read.map(|_| ()))
    };
    for (kind, payload) in [
        (kind::DATA, &b""[..]),
        (kind::ERROR_DATA, b""),
        (kind::EOF, b"x"),
        (kind::CREDIT, &[0, 0, 0, 0]),
        (kind::CREDIT, &[1]),
        (kind::HELLO, &[1]),
        (kind::LISTENING, &[1]),
        (kind::INCOMING, &[0; 5]),
        (kind::INCOMING, &[0, 0, 0, 1, 0, 80, 0xff]),
        (kind::INCOMING, &[b'x'; 6 + PEER_LEN_MAX + 1]),
        (kind::SIGNAL, &[0]),
        (kind::SIGNAL, &[65]),
        (kind::EXIT, &[3, 1]),
        (kind::EXIT, &[1, 0]),
        (kind::RESIZE, &[0; 9]),
        (kind::OPEN, b""),
        (kind::REFUSED, &[0xff]),
        (kind::REFUSED, &[b'x'; REFUSAL_LEN_MAX + 1]),
    ] {
        assert_eq!(frame(kind, payload), Err(FrameError::Malformed(kind)), "{kind} {payload:?}");
    }
    assert_eq!(frame(0, b""), Err(FrameError::UnknownKind(0)));
    assert_eq!(frame(200, b""), Err(FrameError::UnknownKind(200)));
}

/// A request over a limit would be refused by the agent as a broken stream and take every session down.
#[test]
fn requests_that_do_not_fit_are_known_before_they_are_sent() {
    let exec = |len| OpenRequest {
        target: OpenTarget::Exec { command: vec![b'x'; len], terminal: None },
        variables: Vec::new(),
    };
    assert!(exec(256 * 1024).fits());
    assert!(parse(&to_vec(1, &Frame::Open(exec(256 * 1024)))).is_ok());
    assert!(!exec(256 * 1024 + 1).fits());
    assert!(parse(&to_vec(1, &Frame::Open(exec(256 * 1024 + 1)))).is_err());
}

proptest! {
    /// Any bytes from a hostile peer must end in a frame, a wait or an error, never in a panic.
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        let mut rest = bytes.as_slice();
        while let Ok(Some((_, taken))) = parse(rest) {
            prop_assert!(taken >= HEADER_LEN && taken <= rest.len());
            rest = &rest[taken..];
        }
    }

    /// A valid frame with one damaged byte must not crash the reader nor take more bytes than it has.
    #[test]
    fn damaged_frames_never_panic(which in 0_usize..23, at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let message = &samples()[which];
        let mut bytes = to_vec(message.channel, &message.frame);
        let at = at.index(bytes.len());
        bytes[at] = value;
        if let Ok(Some((_, taken))) = parse(&bytes) {
            prop_assert!(taken <= bytes.len());
        }
    }
}
