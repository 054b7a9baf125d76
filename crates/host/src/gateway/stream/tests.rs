//! What an agent may say on a channel, and what ends it.

use super::*;

fn open() -> Stream {
    let stream = Stream::new();
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
    let early = Stream::new();
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
    let stream = Stream::new();
    assert_eq!(stream.accept(&Frame::Refused("no\x1b[2Jshell")), Ok(true));
    assert_eq!(stream.opened().await, Some(Err("no?[2Jshell".to_owned())));
    let lost = Stream::new();
    lost.lose();
    assert_eq!(lost.opened().await, None);
}
