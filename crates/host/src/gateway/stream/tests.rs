//! What an agent may say on a channel, and what ends it.

use nicompute_agent::frames::Incoming;

use super::*;

fn open() -> Stream {
    let stream = Stream::new(StreamKind::Bytes);
    assert_eq!(stream.accept(&Frame::Opened), Ok(false));
    stream
}

/// An agent that sends past its credit decides how much memory the provider spends on it.
#[test]
fn data_is_held_up_to_the_window_and_no_further() {
    let stream = open();
    let window = usize::try_from(WINDOW).expect("fits");
    assert_eq!(stream.accept(&Frame::Data(&vec![0; window - 1])), Ok(false));
    assert_eq!(stream.accept(&Frame::ErrorData(&[0])), Ok(false));
    assert_eq!(stream.accept(&Frame::Data(&[0])), Err(Violation::OverCredit));
}

/// Things said twice, too early or in the wrong direction are how a hostile agent confuses a client.
#[test]
fn order_and_direction_are_enforced() {
    let early = Stream::new(StreamKind::Bytes);
    assert_eq!(early.accept(&Frame::Data(b"x")), Err(Violation::Order));
    assert_eq!(early.accept(&Frame::Exit(Exit::Code(0))), Err(Violation::Order));
    let stream = open();
    assert_eq!(stream.accept(&Frame::Opened), Err(Violation::Order));
    assert_eq!(stream.accept(&Frame::Refused("no")), Err(Violation::Order));
    assert_eq!(stream.accept(&Frame::Exit(Exit::Code(0))), Ok(false));
    assert_eq!(stream.accept(&Frame::Exit(Exit::Code(0))), Err(Violation::Order));
    assert_eq!(stream.accept(&Frame::Eof), Ok(false));
    assert_eq!(stream.accept(&Frame::Data(b"x")), Err(Violation::Order));
    assert_eq!(stream.accept(&Frame::Hello { version: 1 }), Err(Violation::Direction));
    assert_eq!(stream.accept(&Frame::Signal(9)), Err(Violation::Direction));
    assert_eq!(stream.accept(&Frame::Credit(1)), Err(Violation::OverGrant));
    assert_eq!(stream.take_credit(10), 10);
    assert_eq!(stream.accept(&Frame::Credit(10)), Ok(false));
    assert_eq!(stream.accept(&Frame::Close), Ok(true));
}

/// Output that is still held when the process ends must reach the client before the exit code does.
#[tokio::test]
async fn the_end_comes_after_the_last_byte() {
    let stream = open();
    let long = vec![7; PIECE_LEN + 1];
    for frame in [Frame::Data(&long), Frame::Exit(Exit::Code(3)), Frame::Close] {
        stream.accept(&frame).expect("in order");
    }
    let first = stream.next().await;
    assert_eq!((first.output.len(), first.end), (PIECE_LEN, None));
    let second = stream.next().await;
    assert_eq!((second.output.len(), second.end), (1, Some(End::Closed(Some(Exit::Code(3))))));
}

/// A refusal is shown on the client's terminal, which must not obey it.
#[tokio::test]
async fn refusals_are_shown_without_control_characters() {
    let stream = Stream::new(StreamKind::Bytes);
    assert_eq!(stream.accept(&Frame::Refused("no\x1b[2Jshell")), Ok(true));
    assert_eq!(stream.opened().await, Some(Err("no?[2Jshell".to_owned())));
    let lost = Stream::new(StreamKind::Bytes);
    lost.lose();
    assert_eq!(lost.opened().await, None);
}

/// An agent that offers connections nobody asked for, or without end, would spend the provider's memory.
#[tokio::test]
async fn a_listener_offers_a_bounded_number_of_connections() {
    let coming = |token| Frame::Incoming(Incoming { token, port: 9, peer: "10.0.0.1\x1b" });
    assert_eq!(open().accept(&coming(1)), Err(Violation::Order));
    assert_eq!(open().accept(&Frame::Listening { port: 1 }), Err(Violation::Order));
    let listener = Stream::new(StreamKind::Listener);
    assert_eq!(listener.accept(&coming(1)), Err(Violation::Order));
    assert_eq!(listener.accept(&Frame::Opened), Err(Violation::Order));
    assert_eq!(listener.accept(&Frame::Listening { port: 80 }), Ok(false));
    assert_eq!(listener.opened().await, Some(Ok(80)));
    assert_eq!(listener.accept(&Frame::Listening { port: 80 }), Err(Violation::Order));
    for frame in [Frame::Data(b"x"), Frame::Eof, Frame::Credit(1), Frame::Exit(Exit::Code(0))] {
        assert_eq!(listener.accept(&frame), Err(Violation::Order));
    }
    for token in 0..u32::try_from(INCOMING_MAX).expect("fits") {
        assert_eq!(listener.accept(&coming(token)), Ok(false));
    }
    assert_eq!(listener.accept(&coming(99)), Err(Violation::Flood));
    let first = Arrival { token: 0, peer: "10.0.0.1?".to_owned(), port: 9 };
    assert_eq!(listener.arrival().await, Some(first));
    assert_eq!(listener.accept(&coming(99)), Ok(false));
    assert_eq!(listener.accept(&Frame::Close), Ok(true));
    for _ in 0..INCOMING_MAX {
        assert!(listener.arrival().await.is_some());
    }
    assert_eq!(listener.arrival().await, None);
}
