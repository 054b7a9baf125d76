//! What Bittensor's own clients send and read, compared with what this one sends and reads: SDK 9.0.0, 10 and 11, and
//! `btcli` of the latter two, each a real program against a local chain.
//!
//! A call is compared byte by byte as it lies in the block, before the signature; a read field by field at one block. Every
//! operation of the tables has an answer for every client: equal, or not offered and why. Anything else fails.

mod calls;
mod judge;
mod reads;
mod rpc;
mod scene;

use calls::OPERATIONS;
use judge::Judge;
use reads::READS;
use scene::Scene;

use crate::judges;

/// A client, and how it is asked.
#[derive(Debug, Clone, Copy)]
struct Client {
    /// Its adapter in `tests/judges`.
    name: &'static str,
    /// The variable that names its Python interpreter.
    variable: &'static str,
    /// Blocks for which its extrinsics live; 0 is for ever.
    eras: &'static [u64],
    /// How many operations and reads it offers, all of which are compared; one that it offers no more must be noticed.
    offered: usize,
}

const SDK_9: Client =
    Client { name: "sdk9", variable: judges::PYTHON_9, eras: &[0, 8], offered: 32 };
const SDK_10: Client =
    Client { name: "sdk10", variable: judges::PYTHON_10, eras: &[16, 128], offered: 34 };
const SDK_11: Client =
    Client { name: "sdk11", variable: judges::PYTHON_11, eras: &[8, 128], offered: 33 };
const BTCLI_9: Client = Client {
    name: "btcli9",
    variable: judges::PYTHON_10,
    eras: &[0, 8, 16, 32, 64, 128],
    offered: 12,
};
const BTCLI_11: Client =
    Client { name: "btcli11", variable: judges::PYTHON_11, eras: &[8, 128], offered: 23 };

/// One line of the table that a test prints.
#[derive(Debug)]
struct Row {
    name: &'static str,
    verdict: Verdict,
}

/// What came of one operation.
#[derive(Debug)]
enum Verdict {
    /// It is the same as ours, with a remark.
    Equal(String),
    /// The client cannot do it.
    NotOffered(String),
    /// It is another, or the client failed.
    Wrong(String),
}

/// Lets a client do everything and compares.
async fn conform(client: Client) {
    let Some(python) = judges::python(client.variable) else { return };
    let scene = Scene::start().await;
    let mut judge = Judge::start(&python, client.name, &scene).await;
    let mut rows = Vec::new();
    for operation in &OPERATIONS {
        let verdict = calls::compare(operation, client, &mut judge, &scene).await;
        rows.push(Row { name: operation.name, verdict });
    }
    // A client that commits nothing must have something to read all the same.
    calls::commit_to_text(&scene).await;
    scene.pass_an_epoch().await;
    for read in &READS {
        let verdict = reads::compare(read, &mut judge, &scene).await;
        rows.push(Row { name: read.name, verdict });
    }
    let version = judge.version.clone();
    judge.end().await;
    scene.end().await;
    println!("conformance with {} ({version})", client.name);
    for row in &rows {
        let (word, remark) = match &row.verdict {
            Verdict::Equal(remark) => ("equal", remark),
            Verdict::NotOffered(why) => ("not offered", why),
            Verdict::Wrong(what) => ("WRONG", what),
        };
        println!("  {:<36} {word:<12} {remark}", row.name);
    }
    let wrong = rows.iter().filter(|row| matches!(row.verdict, Verdict::Wrong(_))).count();
    assert_eq!(wrong, 0, "{wrong} operations of {} differ, see above", client.name);
    let equal = rows.iter().filter(|row| matches!(row.verdict, Verdict::Equal(_))).count();
    assert_eq!(equal, client.offered, "of so many operations of {} something is said", client.name);
}

/// The network's miners and validators of the original run this version: a call that differs from theirs is one that the
/// chain may take otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn sdk_9() {
    conform(SDK_9).await;
}

/// Most miners of today run this one.
#[tokio::test(flavor = "multi_thread")]
async fn sdk_10() {
    conform(SDK_10).await;
}

/// The newest SDK has another codec, and hides what it sends until it is in a block.
#[tokio::test(flavor = "multi_thread")]
async fn sdk_11() {
    conform(SDK_11).await;
}

/// Owners register and stake with it: our commands must do what it does.
#[tokio::test(flavor = "multi_thread")]
async fn btcli_9() {
    conform(BTCLI_9).await;
}

/// The same for the newest one.
#[tokio::test(flavor = "multi_thread")]
async fn btcli_11() {
    conform(BTCLI_11).await;
}
