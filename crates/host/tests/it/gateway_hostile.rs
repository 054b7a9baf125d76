//! Agents that lie. A tenant who has taken over the agent speaks with its voice; the gateway, the other leases and the
//! renter's own client must bear anything it says.

use std::time::Duration;

use nicompute_agent::frames::{
    CONTROL, Exit, FRAME_LEN_MAX, Frame, HEADER_LEN, Incoming, OpenRequest, OpenTarget,
    PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, WINDOW, parse, to_vec,
};
use nicompute_host::gateway::{Limits, Route};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::gateway_world::{PATIENCE, World, background, eventually, noise, run, stderr, stdout};

/// An agent whose every byte the test writes.
struct Liar {
    socket: UnixStream,
    received: Vec<u8>,
}

impl Liar {
    async fn connect(world: &World) -> Self {
        let socket = UnixStream::connect(world.socket()).await.expect("connects");
        Self { socket, received: Vec::new() }
    }

    async fn greeted(world: &World) -> Self {
        let mut liar = Self::connect(world).await;
        liar.say(&to_vec(CONTROL, &Frame::Hello { version: PROTOCOL_VERSION })).await;
        world.connected().await;
        liar
    }

    /// Writes; a gateway that has hung up already is told nothing, which is what it wanted.
    async fn say(&mut self, bytes: &[u8]) {
        drop(tokio::time::timeout(PATIENCE, self.socket.write_all(bytes)).await.expect("is read"));
    }

    /// Waits for a request and says its channel.
    async fn asked(&mut self) -> u32 {
        loop {
            while let Some((message, taken)) = parse(&self.received).expect("frames") {
                let opened = matches!(message.frame, Frame::Open(_)).then_some(message.channel);
                self.received.drain(..taken);
                if let Some(channel) = opened {
                    return channel;
                }
            }
            let read = self.socket.read_buf(&mut self.received);
            let count =
                tokio::time::timeout(PATIENCE, read).await.expect("in time").expect("reads");
            assert!(count > 0, "the gateway hung up");
        }
    }

    /// Whether the gateway hangs up.
    async fn is_cut_off(&mut self) -> bool {
        let mut rest = Vec::new();
        tokio::time::timeout(PATIENCE, self.socket.read_to_end(&mut rest)).await.is_ok()
    }
}

fn header(kind: u8, channel: u32, len: u32) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&channel.to_be_bytes());
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes
}

/// What is no protocol must end the connection at once, and the next agent must be served.
#[tokio::test(flavor = "multi_thread")]
async fn nonsense_before_and_after_the_greeting_is_cut_off() {
    let world = World::without_agent(Limits::standard()).await;
    let over = u32::try_from(FRAME_LEN_MAX + 1).expect("fits");
    let cases: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        header(5, 1, over),
        header(5, 1, u32::MAX),
        header(200, 0, 0),
        header(8, 1, 4).into_iter().chain([0; 4]).collect(),
        to_vec(CONTROL, &Frame::Close),
        to_vec(1, &Frame::Opened),
        to_vec(u32::MAX, &Frame::Data(b"x")),
        to_vec(CONTROL, &Frame::Data(b"x")),
    ];
    for bytes in &cases {
        let mut early = Liar::connect(&world).await;
        early.say(bytes).await;
        assert!(early.is_cut_off().await, "before the greeting: {bytes:?}");
        let mut late = Liar::greeted(&world).await;
        late.say(bytes).await;
        assert!(late.is_cut_off().await, "after the greeting: {bytes:?}");
        eventually("it is forgotten", || !world.gateway.connected(world.route.lease)).await;
    }
}

/// Another version must be refused while both sides still can.
#[tokio::test(flavor = "multi_thread")]
async fn another_version_is_cut_off() {
    let world = World::without_agent(Limits::standard()).await;
    let mut old = Liar::connect(&world).await;
    old.say(&to_vec(CONTROL, &Frame::Hello { version: PROTOCOL_VERSION + 1 })).await;
    assert!(old.is_cut_off().await);
    assert!(!world.gateway.connected(world.route.lease));
}

/// A container outlives the node's upgrade: its older agent must be found, answered in its own words and asked for nothing
/// that it does not know.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_the_version_before_is_served() {
    let world = World::without_agent(Limits::standard()).await;
    let mut old = Liar::connect(&world).await;
    old.say(&to_vec(CONTROL, &Frame::Hello { version: PROTOCOL_VERSION_MIN })).await;
    world.connected().await;
    while old.received.len() < HEADER_LEN + 2 {
        assert!(old.socket.read_buf(&mut old.received).await.expect("reads") > 0);
    }
    let (hello, taken) = parse(&old.received).expect("a frame").expect("whole");
    assert_eq!(hello.frame, Frame::Hello { version: PROTOCOL_VERSION_MIN });
    old.received.drain(..taken);
    let mut forward = world.ssh();
    forward.args(["-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1"]);
    let forward = run({
        forward.arg(world.target()).arg("true");
        forward
    });
    assert_eq!(forward.await.status.code(), Some(255), "the old agent knows no listeners");
    let client = background(run(world.ssh_to("true")));
    let channel = old.asked().await;
    for frame in [Frame::Opened, Frame::Exit(Exit::Code(5)), Frame::Close] {
        old.say(&to_vec(channel, &frame)).await;
    }
    assert_eq!(client.await.expect("runs").status.code(), Some(5));
    assert_eq!(channel, 1, "nothing else was asked of it");
}

/// A process that connects and says nothing must not take the agent's place, nor stay.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_peer_takes_no_place() {
    let mut limits = Limits::standard();
    limits.hello = Duration::from_millis(200);
    let Some(world) = World::with_limits(limits).await else { return };
    let mut silent = Liar::connect(&world).await;
    assert_eq!(stdout(&run(world.ssh_to("echo served")).await), "served\n");
    assert!(silent.is_cut_off().await);
    assert_eq!(stdout(&run(world.ssh_to("echo served")).await), "served\n");
}

/// Where the container's first process is known, nobody else may speak for it.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_known_process_is_heard() {
    let Some(world) = World::new().await else { return };
    let open = |init_pid| {
        let route = Route { init_pid, ..world.route.clone() };
        world.gateway.open(&route).expect("opens");
    };
    open(Some(world.agent_pid()));
    let mut liar = Liar::connect(&world).await;
    liar.say(&to_vec(CONTROL, &Frame::Hello { version: PROTOCOL_VERSION })).await;
    assert!(liar.is_cut_off().await);
    assert_eq!(stdout(&run(world.ssh_to("echo mine")).await), "mine\n");
    // The container was replaced: the process that was right is wrong now.
    open(Some(1));
    eventually("the old agent is cut off", || !world.gateway.connected(world.route.lease)).await;
    open(None);
    world.connected().await;
}

/// What an agent says on a real channel out of order, in excess or in the wrong direction ends it; the client is told.
#[tokio::test(flavor = "multi_thread")]
async fn lies_on_a_channel_end_the_agent_and_tell_the_client() {
    let world = World::without_agent(Limits::standard()).await;
    let window = usize::try_from(WINDOW).expect("fits");
    let flood = vec![b'x'; window + 1];
    let open = OpenRequest { target: OpenTarget::Sftp, variables: Vec::new() };
    let incoming = Incoming { token: 1, port: 1, peer: "" };
    let lies: Vec<(&str, Vec<Frame<'_>>)> = vec![
        ("data before it is open", vec![Frame::Data(b"x")]),
        ("twice open", vec![Frame::Opened, Frame::Opened]),
        ("open and refused", vec![Frame::Opened, Frame::Refused("no")]),
        ("more than its credit", vec![Frame::Opened, Frame::Data(&flood)]),
        ("credit without reason", vec![Frame::Opened, Frame::Credit(u32::MAX)]),
        ("two ends", vec![Frame::Opened, Frame::Exit(Exit::Code(0)), Frame::Exit(Exit::Code(1))]),
        ("a request", vec![Frame::Opened, Frame::Open(open)]),
        ("a signal", vec![Frame::Opened, Frame::Signal(9)]),
        ("a listener", vec![Frame::Listening { port: 80 }]),
        ("a connection nobody asked for", vec![Frame::Opened, Frame::Incoming(incoming)]),
        ("data after its end", vec![Frame::Opened, Frame::Eof, Frame::Data(b"x")]),
    ];
    for (name, frames) in lies {
        let mut liar = Liar::greeted(&world).await;
        let client = background(run(world.ssh_to("true")));
        let channel = liar.asked().await;
        for frame in frames {
            liar.say(&to_vec(channel, &frame)).await;
        }
        assert!(liar.is_cut_off().await, "{name}");
        let output = client.await.expect("runs");
        assert_eq!(output.status.code(), Some(255), "{name}");
        assert!(stderr(&output).contains("was lost"), "{name}: {}", stderr(&output));
        eventually("it is forgotten", || !world.gateway.connected(world.route.lease)).await;
    }
}

/// An agent that offers connections without end must spend its own patience, not the provider's memory.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_connections_from_inside_is_cut_off() {
    let mut limits = Limits::standard();
    limits.channels_per_lease = 4;
    let world = World::without_agent(limits).await;
    let mut liar = Liar::greeted(&world).await;
    let mut ssh = world.ssh();
    ssh.args(["-N", "-R", "0:127.0.0.1:1"]).arg(world.target());
    let mut client = ssh.spawn().expect("starts");
    let channel = liar.asked().await;
    liar.say(&to_vec(channel, &Frame::Listening { port: 4000 })).await;
    for token in 0..100 {
        let incoming = Incoming { token, port: 1, peer: "10.0.0.1" };
        liar.say(&to_vec(channel, &Frame::Incoming(incoming))).await;
    }
    assert!(liar.is_cut_off().await);
    assert!(world.gateway.stats().channels <= 4);
    client.kill().await.expect("dies");
}

/// A refusal's text is a tenant's: the client's terminal must not obey it.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_reach_the_client_as_text() {
    let world = World::without_agent(Limits::standard()).await;
    let mut liar = Liar::greeted(&world).await;
    let client = background(run(world.ssh_to("true")));
    let channel = liar.asked().await;
    liar.say(&to_vec(channel, &Frame::Refused("no\x1b]0;owned\x07 shell"))).await;
    let output = client.await.expect("runs");
    assert_eq!(output.status.code(), Some(255));
    assert!(stderr(&output).contains("nicompute: no?]0;owned? shell"), "{}", stderr(&output));
    assert!(world.gateway.connected(world.route.lease));
}

/// Frames for channels that are closed are natural for a while; a flood of them is an attack on the processor.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_for_closed_channels_is_cut_off() {
    let world = World::without_agent(Limits::standard()).await;
    let mut liar = Liar::greeted(&world).await;
    let client = background(run(world.ssh_to("true")));
    let channel = liar.asked().await;
    for frame in [Frame::Opened, Frame::Exit(Exit::Code(0)), Frame::Close, Frame::Close] {
        liar.say(&to_vec(channel, &frame)).await;
    }
    assert_eq!(client.await.expect("runs").status.code(), Some(0));
    assert!(world.gateway.connected(world.route.lease));
    let flood = to_vec(channel, &Frame::Close).repeat((1 << 16) + 1);
    liar.say(&flood).await;
    assert!(liar.is_cut_off().await);
}

/// An agent that takes nothing in must not stop the gateway; its clients can still leave.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_does_not_read_holds_up_nobody_else() {
    let world = World::without_agent(Limits::standard()).await;
    let mut liar = Liar::greeted(&world).await;
    let mut stuck = world.ssh_to("cat");
    let mut stuck = stuck.stdin(std::process::Stdio::piped()).spawn().expect("starts");
    let mut input = stuck.stdin.take().expect("piped");
    let channel = liar.asked().await;
    liar.say(&to_vec(channel, &Frame::Opened)).await;
    let feed = background(async move { input.write_all(&noise(64 << 20)).await });
    let other = Route {
        lease: nicompute_market::LeaseId::from_random_bytes([8; 16]),
        socket_dir: world.dir.path().join("other"),
        ..world.route.clone()
    };
    world.gateway.open(&other).expect("opens");
    let mut second =
        UnixStream::connect(other.socket_dir.join("gateway.sock")).await.expect("connects");
    let hello = to_vec(CONTROL, &Frame::Hello { version: PROTOCOL_VERSION });
    second.write_all(&hello).await.expect("writes");
    eventually("the other lease is served", || world.gateway.connected(other.lease)).await;
    world.gateway.close(world.route.lease);
    let ended = tokio::time::timeout(PATIENCE, stuck.wait()).await.expect("in time");
    assert_eq!(ended.expect("ends").code(), Some(255));
    drop(feed.await.expect("ends with its client"));
}

/// Damaged streams of a real session, many of them: the gateway must end or bear each, and serve the next agent.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_streams_never_hurt_the_gateway() {
    const ROUNDS: usize = 300;
    let world = World::without_agent(Limits::standard()).await;
    let hello = to_vec(CONTROL, &Frame::Hello { version: PROTOCOL_VERSION });
    let session: Vec<u8> = [
        Frame::Opened,
        Frame::Credit(1),
        Frame::Data(b"some output"),
        Frame::ErrorData(b"some error"),
        Frame::Eof,
        Frame::Exit(Exit::Code(3)),
        Frame::Close,
    ]
    .iter()
    .flat_map(|frame| to_vec(1, frame))
    .collect();
    let chance = noise(ROUNDS * 4);
    for dice in chance.chunks_exact(4) {
        let mut bytes = hello.clone();
        bytes.extend_from_slice(&session);
        let at = usize::from(dice[0]) % bytes.len();
        bytes[at] ^= dice[1] | 1;
        bytes.truncate(bytes.len().saturating_sub(usize::from(dice[2]) % (2 * HEADER_LEN)));
        let mut liar = Liar::connect(&world).await;
        liar.say(&bytes).await;
        drop(liar);
    }
    let _liar = Liar::greeted(&world).await;
}
