//! Files, moved by OpenSSH's own scp and sftp.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::gateway_world::{World, eventually, noise, run, run_with_input, stderr, stdout};

fn present(program: &str) -> bool {
    let found = ["/usr/bin", "/bin", "/usr/local/bin"]
        .iter()
        .any(|dir| Path::new(dir).join(program).exists());
    if !found {
        #[expect(clippy::print_stderr, reason = "a test that did not run must be heard")]
        {
            eprintln!("SKIPPED: no {program} here");
        }
    }
    found
}

/// A file that changes on its way is lost work; scp is what most renters use first.
#[tokio::test(flavor = "multi_thread")]
async fn scp_copies_both_ways() {
    let Some(world) = World::new().await else { return };
    let bytes = noise(20 << 20);
    fs::write(world.path("local"), &bytes).expect("writes");
    for flags in [&[][..], &["-O"], &["-C"], &["-c", "aes128-gcm@openssh.com"]] {
        let mut up = world.copier("scp");
        up.args(flags).args([
            "-p",
            &world.path("local"),
            &format!("{}:{}", world.target(), world.path("remote")),
        ]);
        let output = run(up).await;
        assert!(output.status.success(), "{flags:?}: {}", stderr(&output));
        let mut down = world.copier("scp");
        down.args(flags)
            .args([&format!("{}:{}", world.target(), world.path("remote")), &world.path("back")]);
        let output = run(down).await;
        assert!(output.status.success(), "{flags:?}: {}", stderr(&output));
        assert!(fs::read(world.path("back")).expect("reads") == bytes, "{flags:?}");
        fs::remove_file(world.path("remote")).expect("was there");
    }
}

/// Folders with many small files, modes and times must arrive as they were.
#[tokio::test(flavor = "multi_thread")]
async fn scp_copies_folders() {
    let Some(world) = World::new().await else { return };
    let local = world.dir.path().join("tree/deep");
    fs::create_dir_all(&local).expect("makes");
    for number in 0..100 {
        fs::write(local.join(format!("file {number}")), noise(number)).expect("writes");
    }
    fs::set_permissions(local.join("file 7"), fs::Permissions::from_mode(0o751)).expect("chmod");
    let mut up = world.copier("scp");
    up.args(["-rp", &world.path("tree"), &format!("{}:{}", world.target(), world.path("copy"))]);
    let output = run(up).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let copy = world.dir.path().join("copy/deep");
    assert_eq!(fs::read_dir(&copy).expect("lists").count(), 100);
    let (was, is) = (fs::metadata(local.join("file 7")), fs::metadata(copy.join("file 7")));
    let (was, is) = (was.expect("exists"), is.expect("exists"));
    assert_eq!(is.permissions().mode() & 0o777, 0o751);
    let seconds = |meta: &fs::Metadata| {
        let since = meta.modified().expect("known").duration_since(std::time::UNIX_EPOCH);
        since.expect("after 1970").as_secs()
    };
    assert_eq!(seconds(&was), seconds(&is));
}

/// A missing file or folder must be named, with an exit code that scripts see.
#[tokio::test(flavor = "multi_thread")]
async fn scp_reports_what_is_missing() {
    let Some(world) = World::new().await else { return };
    let mut down = world.copier("scp");
    down.args([&format!("{}:{}", world.target(), world.path("nothing")), &world.path("back")]);
    let output = run(down).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("No such file"), "{}", stderr(&output));
}

/// The whole of what an SFTP client does to files, in one session.
#[tokio::test(flavor = "multi_thread")]
async fn sftp_does_what_its_commands_say() {
    let Some(world) = World::new().await else { return };
    let bytes = noise(1 << 20);
    fs::write(world.path("local"), &bytes).expect("writes");
    let dir = world.path("d");
    let (local, back) = (world.path("local"), world.path("back"));
    let batch = format!(
        "mkdir {dir}\ncd {dir}\nput {local} a\nrename a b\nchmod 640 b\nln b hard\nln -s b soft\n\
         get b {back}\nls -l\nstat b\ndf .\npwd\nrm hard\nmkdir empty\nrmdir empty\n-rm missing\n"
    );
    let batch = batch.replace("stat b\n", "");
    let mut sftp = world.copier("sftp");
    sftp.args(["-b", "-", &world.target()]);
    let output = run_with_input(sftp, batch.into_bytes()).await;
    let text = stdout(&output);
    assert!(fs::read(back).expect("fetched") == bytes);
    let meta = fs::metadata(format!("{dir}/b")).expect("exists");
    assert_eq!(meta.permissions().mode() & 0o777, 0o640);
    assert_eq!(fs::read_link(format!("{dir}/soft")).expect("a link"), Path::new("b"));
    assert!(!Path::new(&dir).join("hard").exists());
    assert!(text.contains("-rw-r-----"), "{text}");
    assert!(text.contains(&format!("Remote working directory: {dir}")), "{text}");
}

/// rsync finds its own program over a command; its deltas must work over the gateway.
#[tokio::test(flavor = "multi_thread")]
async fn rsync_copies_a_tree() {
    let Some(world) = World::new().await else { return };
    if !present("rsync") {
        return;
    }
    let tree = world.dir.path().join("tree");
    fs::create_dir(&tree).expect("makes");
    fs::write(tree.join("a"), noise(1 << 20)).expect("writes");
    let (port, id) = (world.gateway.local_addr().port(), world.path("id"));
    let hosts = world.path("known_hosts");
    let shell = format!(
        "ssh -F none -p {port} -i {id} -o IdentitiesOnly=yes -o UserKnownHostsFile={hosts}"
    );
    let mut rsync = tokio::process::Command::new("rsync");
    rsync.args(["-a", "-e", &shell, &format!("{}/", tree.display())]);
    rsync.arg(format!("{}:{}", world.target(), world.path("copy")));
    let output = run(rsync).await;
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(fs::read(world.path("copy/a")).expect("reads") == noise(1 << 20));
}

/// A client that dies in the middle of a transfer must leave no process, no channel and no place taken.
#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_is_cut_leaves_nothing_running() {
    let Some(world) = World::new().await else { return };
    let (local, remote) = (world.path("big"), world.path("copy"));
    std::fs::File::create(&local).expect("makes").set_len(8 << 30).expect("a sparse file");
    let children = format!("/proc/{0}/task/{0}/children", world.agent_pid());
    let target = |path: &str| format!("{}:{path}", world.target());
    for (from, to) in [(local.clone(), target(&remote)), (target(&local), remote.clone())] {
        let mut scp = world.copier("scp");
        let mut client = scp.args([&from, &to]).spawn().expect("starts");
        let grows = || std::fs::metadata(&remote).is_ok_and(|meta| meta.len() > 1 << 20);
        eventually("bytes arrive", grows).await;
        client.kill().await.expect("dies");
        eventually("what served it is gone", || {
            std::fs::read_to_string(&children).is_ok_and(|children| children.trim().is_empty())
        })
        .await;
        eventually("nothing is held", || {
            let stats = world.gateway.stats();
            (stats.inside, stats.channels) == (0, 0)
        })
        .await;
        std::fs::remove_file(&remote).expect("removes");
    }
}
