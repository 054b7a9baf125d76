//! What an unpacker must never do with an image, and what it must.

use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};

use super::*;

/// An entry of a test's archive.
#[derive(Clone)]
struct Item {
    path: Vec<u8>,
    letter: u8,
    link: Vec<u8>,
    mode: u32,
    id: u32,
    content: Vec<u8>,
}

fn item(path: &str, letter: u8, link: &str, content: &str) -> Item {
    Item {
        path: path.into(),
        letter,
        link: link.into(),
        mode: 0o755,
        id: 0,
        content: content.into(),
    }
}

fn file(path: &str, content: &str) -> Item {
    item(path, b'0', "", content)
}

fn dir(path: &str) -> Item {
    item(path, b'5', "", "")
}

fn link(path: &str, target: &str) -> Item {
    item(path, b'2', target, "")
}

fn header(name: &[u8], item: &Item, size: usize, letter: u8) -> Vec<u8> {
    let mut header = vec![0_u8; 512];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, &name[..name.len().min(100)]);
    put(100, format!("{:07o}\0", item.mode).as_bytes());
    put(108, format!("{:07o}\0", item.id).as_bytes());
    put(116, format!("{:07o}\0", item.id).as_bytes());
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000144\0");
    put(148, b"        ");
    put(156, &[letter]);
    put(157, &item.link[..item.link.len().min(100)]);
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

fn archive(items: &[Item]) -> Vec<u8> {
    let mut archive = Vec::new();
    let mut add = |header: Vec<u8>, content: &[u8]| {
        archive.extend(header);
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    };
    for item in items {
        if item.path.len() > 100 {
            add(header(b"long", item, item.path.len(), b'L'), &item.path);
        }
        add(header(&item.path, item, item.content.len(), item.letter), &item.content);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(plain).expect("pack");
    packer.finish().expect("pack")
}

fn hash(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Layers on a tree, without an image around them.
fn lay_layers(layers: &[&[Item]]) -> (tempfile::TempDir, Result<(), LayerError>) {
    let outer = tempfile::tempdir().expect("dir");
    let files = outer.path().join("rootfs");
    fs::create_dir(&files).expect("mkdir");
    let limits = Limits { bytes: 1 << 20, entries: 200, ..Limits::default() };
    let mut tree = Tree::open(&files, limits).expect("open");
    let laid = layers.iter().try_for_each(|layer| tree.lay(&mut &*archive(layer)));
    (outer, laid)
}

fn seen(outer: &tempfile::TempDir, path: &str) -> Option<String> {
    fs::read_to_string(outer.path().join("rootfs").join(path)).ok()
}

/// An OCI layout in a directory, with layers packed in every way that is allowed.
fn layout(at: &Path, layers: &[Vec<u8>], change: impl Fn(&mut serde_json::Value)) {
    let blobs = at.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("mkdir");
    let put = |bytes: &[u8]| {
        let name = hash(bytes);
        fs::write(blobs.join(&name), bytes).expect("write");
        serde_json::json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": format!("sha256:{name}"), "size": bytes.len() })
    };
    let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let ids: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", hash(layer))).collect();
    let mut config = serde_json::json!({
        "architecture": architecture, "os": "linux",
        "config": { "Env": ["A=1", "NICOMPUTE_LEASE=x", "broken", "B=a b=c"] },
        "rootfs": { "type": "layers", "diff_ids": ids },
    });
    change(&mut config);
    let packed: Vec<serde_json::Value> = layers
        .iter()
        .enumerate()
        .map(|(number, layer)| match number % 3 {
            0 => put(&gzip(layer)),
            1 => put(layer),
            _ => put(&ruzstd::encoding::compress_to_vec(
                &**layer,
                ruzstd::encoding::CompressionLevel::Fastest,
            )),
        })
        .collect();
    let config = put(&serde_json::to_vec(&config).expect("json"));
    let manifest = serde_json::json!({ "schemaVersion": 2, "config": config, "layers": packed });
    let manifest = put(&serde_json::to_vec(&manifest).expect("json"));
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(at.join("index.json"), index.to_string()).expect("write");
    fs::write(at.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").expect("write");
}

fn three_layers() -> Vec<Vec<u8>> {
    vec![
        archive(&[dir("./"), dir("etc"), file("etc/one", "1"), file("etc/two", "2")]),
        archive(&[file("etc/.wh.one", ""), file("etc/two", "zwei"), dir("bin")]),
        archive(&[item("etc/same", b'1', "etc/two", ""), link("sbin", "bin")]),
    ]
}

/// A renter would get other files than the image's author meant, or none at all.
#[test]
fn an_image_is_unpacked_once() {
    let work = tempfile::tempdir().expect("dir");
    let (image, store) = (work.path().join("image"), work.path().join("images"));
    layout(&image, &three_layers(), |_| {});
    let unpacked = open(&image, &store).expect("open");
    let read = |path: &str| fs::read_to_string(unpacked.files.join(path)).ok();
    assert_eq!(read("etc/one"), None);
    assert_eq!(read("etc/two").as_deref(), Some("zwei"));
    assert_eq!(read("etc/same").as_deref(), Some("zwei"));
    assert_eq!(fs::read_link(unpacked.files.join("sbin")).expect("link"), Path::new("bin"));
    let environment: Vec<(&str, &str)> =
        unpacked.environment.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(environment, [("A", "1"), ("B", "a b=c")]);
    let mode = fs::metadata(&store).expect("store").permissions().mode();
    assert_eq!(
        mode & 0o777,
        0o700,
        "programs of an image with the rights of root are nobody's to start"
    );
    fs::write(unpacked.files.join("mark"), "kept").expect("write");
    assert_eq!(open(&image, &store).expect("again"), unpacked);
    assert!(unpacked.files.join("mark").exists(), "not unpacked again");
    // The same from an archive of the layout, as other programs write it.
    let mut items = Vec::new();
    for entry in ["index.json", "oci-layout"] {
        items.push(file(entry, &fs::read_to_string(image.join(entry)).expect("read")));
    }
    for blob in fs::read_dir(image.join("blobs/sha256")).expect("list").flatten() {
        let path = format!("blobs/sha256/{}", blob.file_name().to_string_lossy());
        let content = fs::read(blob.path()).expect("read");
        items.push(Item { content, ..file(&path, "") });
    }
    let tar = work.path().join("image.tar");
    fs::write(&tar, archive(&items)).expect("write");
    assert_eq!(open(&tar, &store).expect("archive"), unpacked);
    sweep(&store).expect("sweep");
    assert_eq!(fs::read_dir(&store).expect("list").count(), 1);
}

/// What every engine writes with `save` could not be used without that engine.
#[test]
fn a_saved_image_is_read() {
    let work = tempfile::tempdir().expect("dir");
    let layers = three_layers();
    let ids: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", hash(layer))).collect();
    let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let config = serde_json::json!({ "architecture": architecture, "os": "linux",
        "config": { "Env": null }, "rootfs": { "diff_ids": ids } });
    let config = config.to_string();
    let name = format!("{}.json", hash(config.as_bytes()));
    let paths = ["a/layer.tar", "b/layer.tar", "c/layer.tar"];
    let manifest = serde_json::json!([{ "Config": name, "RepoTags": ["x:1"], "Layers": paths }]);
    let mut items = vec![file(&name, &config), file("manifest.json", &manifest.to_string())];
    for (path, layer) in paths.iter().zip(&layers) {
        items.push(Item { content: layer.clone(), ..file(path, "") });
    }
    let tar = work.path().join("saved.tar");
    fs::write(&tar, archive(&items)).expect("write");
    let unpacked = open(&tar, &work.path().join("images")).expect("open");
    assert_eq!(fs::read_to_string(unpacked.files.join("etc/two")).expect("read"), "zwei");
}

/// A byte that was changed on the way would run in a renter's container.
#[test]
fn every_byte_is_checked() {
    let work = tempfile::tempdir().expect("dir");
    let (image, store) = (work.path().join("image"), work.path().join("images"));
    layout(&image, &three_layers(), |_| {});
    for blob in fs::read_dir(image.join("blobs/sha256")).expect("list").flatten() {
        let good = fs::read(blob.path()).expect("read");
        for at in [0, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(blob.path(), &bad).expect("write");
            let error = open(&image, &store).expect_err("changed");
            let known = matches!(error, ImageError::Digest { .. } | ImageError::Layer { .. });
            assert!(known, "{error:?}");
        }
        fs::write(blob.path(), &good[..good.len() / 2]).expect("write");
        assert!(open(&image, &store).is_err(), "cut short");
        fs::write(blob.path(), &good).expect("write");
        assert_eq!(fs::read_dir(&store).map_or(0, Iterator::count), 0, "nothing is left");
    }
    for change in ["/architecture", "/os"] {
        let other = tempfile::tempdir().expect("dir");
        layout(other.path(), &three_layers(), |config| {
            *config.pointer_mut(change).expect("field") = "other".into();
        });
        assert!(matches!(open(other.path(), &store), Err(ImageError::Refused(_))), "{change}");
    }
    assert!(open(&image, &store).is_ok());
}

/// An image would write to the machine, read from it, or fill it.
#[test]
fn layers_stay_in_their_tree() {
    let bait = tempfile::tempdir().expect("bait");
    fs::write(bait.path().join("precious"), "x").expect("write");
    let outside = bait.path().display().to_string();
    let up = "../".repeat(20);
    let hostile: Vec<Vec<Item>> = vec![
        vec![file("../evil", "x")],
        vec![file("a/../../evil", "x")],
        vec![file("..", "x")],
        vec![dir("a"), file("a/..", "x")],
        vec![Item { path: b"a\xff/../x".to_vec(), ..file("", "") }],
        vec![file(&"a/".repeat(300), "x")],
        vec![file(&"a".repeat(300), "x")],
        vec![file(&"abc/".repeat(1100), "x")],
        vec![item("hard", b'1', &format!("{outside}/precious"), "")],
        vec![item("hard", b'1', &format!("{up}{outside}/precious"), "")],
        vec![link("l", &outside), item("hard", b'1', "l/precious", "")],
        vec![item("hard", b'1', "missing", "")],
        vec![item("sda", b'4', "", "")],
        vec![item("null", b'3', "", "")],
        vec![file(".wh...", "")],
        vec![file("a/.wh..", "")],
        vec![file(".wh.", "")],
        vec![link("l", "")],
        vec![link("loop", "loop"), file("loop/x", "x")],
        vec![file("f", "x"), file("f/x", "x")],
        vec![file("big", &"x".repeat(2 << 20))],
        (0..300).map(|number| dir(&number.to_string())).collect(),
        vec![item("odd", b'S', "", "")],
    ];
    for items in hostile {
        let (outer, laid) = lay_layers(&[&items]);
        let shown = String::from_utf8_lossy(&items[0].path).chars().take(30).collect::<String>();
        assert!(laid.is_err(), "{shown}");
        let names: Vec<_> = fs::read_dir(outer.path()).expect("list").flatten().collect();
        assert_eq!(names.len(), 1, "{shown}");
    }
    // These are legal, and stay inside.
    let absolute = [link("l", &outside), file("l/evil", "x"), link("k", &up), file("k/here", "y")];
    let (outer, laid) = lay_layers(&[&absolute]);
    assert!(laid.is_err() || seen(&outer, "here").is_some(), "{laid:?}");
    let replaced = [link("l", &format!("{outside}/precious")), file("l", "mine")];
    let (outer, laid) = lay_layers(&[&replaced]);
    laid.expect("a link is replaced, not written through");
    assert_eq!(seen(&outer, "l").as_deref(), Some("mine"));
    let hidden = [link("d", &outside)];
    let (_outer, laid) = lay_layers(&[&hidden, &[file("d/.wh.precious", ""), file(".wh.d", "")]]);
    laid.expect("a link is removed, not followed");
    assert_eq!(fs::read_to_string(bait.path().join("precious")).expect("still there"), "x");
    assert_eq!(fs::read_dir(bait.path()).expect("list").count(), 1);
}

/// Files that a later layer removed would be in the container, or files that it brought would not.
#[test]
fn layers_hide_what_is_below_them() {
    let base = [dir("a"), file("a/old", "1"), dir("a/sub"), file("a/sub/old", "1"), file("b", "1")];
    let (outer, laid) = lay_layers(&[
        &base,
        &[dir("a"), file("a/new", "2"), file("a/sub/new", "2"), file("a/.wh..wh..opq", "")],
    ]);
    laid.expect("opaque");
    assert_eq!(seen(&outer, "a/old"), None);
    assert_eq!(seen(&outer, "a/sub/old"), None);
    assert_eq!(seen(&outer, "a/new").as_deref(), Some("2"));
    assert_eq!(seen(&outer, "a/sub/new").as_deref(), Some("2"));
    assert_eq!(seen(&outer, "b").as_deref(), Some("1"));
    let changes = [
        file(".wh.a", ""),
        file(".wh.missing", ""),
        file("x/.wh.y", ""),
        dir("b"),
        file("b/in", "3"),
    ];
    let (outer, laid) = lay_layers(&[&base, &changes]);
    laid.expect("whiteouts");
    assert!(!outer.path().join("rootfs/a").exists());
    assert_eq!(seen(&outer, "b/in").as_deref(), Some("3"));
    // A directory over a directory keeps what is in it; anything else replaces.
    let (outer, laid) = lay_layers(&[&base, &[dir("a"), link("a/sub", "nowhere")]]);
    laid.expect("replace");
    assert_eq!(seen(&outer, "a/old").as_deref(), Some("1"));
    assert!(outer.path().join("rootfs/a/sub").is_symlink());
    // What lies below a link of an earlier layer lands where the link leads.
    let (outer, laid) =
        lay_layers(&[&[dir("usr/bin"), link("bin", "usr/bin")], &[file("bin/x", "4")]]);
    laid.expect("through a link");
    assert_eq!(seen(&outer, "usr/bin/x").as_deref(), Some("4"));
}

/// Programs would not start, or belong to others than their author meant.
#[test]
fn owners_modes_and_times_are_kept() {
    let mut odd = file("odd", "x");
    (odd.mode, odd.id) = (0o4711, 1234);
    let mut strange = file("strange", "x");
    strange.id = 1_000_000;
    let items = [odd, strange, item("pipe", b'6', "", ""), item("dev/sda", b'4', "", "")];
    let (outer, laid) = lay_layers(&[&items]);
    laid.expect("lay");
    let data =
        |name: &str| fs::symlink_metadata(outer.path().join("rootfs").join(name)).expect("there");
    assert_eq!(data("odd").mtime(), 100);
    assert!(data("pipe").file_type().is_fifo());
    assert!(!outer.path().join("rootfs/dev/sda").exists(), "a container has devices of its own");
    if rustix::process::geteuid().is_root() {
        assert_eq!((data("odd").mode() & 0o7777, data("odd").uid()), (0o4711, 1234));
        assert_eq!(data("strange").uid(), 65_534);
    } else {
        assert_eq!(data("odd").mode() & 0o7777, 0o711);
    }
}

/// A small file that unpacks to a large one would fill the provider's disk.
#[test]
fn bombs_do_not_go_off() {
    let work = tempfile::tempdir().expect("dir");
    let zeroes = "\0".repeat(8 << 20);
    let layer = archive(&[file("zeroes", &zeroes)]);
    let image = work.path().join("image");
    layout(&image, &[layer], |_| {});
    let blobs = Blobs::open(&image).expect("open");
    let store = work.path().join("images");
    for limits in [
        Limits { ratio: 20, ratio_free_bytes: 1 << 20, ..Limits::default() },
        Limits { bytes: 4 << 20, ..Limits::default() },
        Limits { entries: 0, ..Limits::default() },
    ] {
        let error = unpack(&blobs, &store, limits).expect_err("too much");
        assert!(matches!(error, ImageError::Layer { .. }), "{error:?}");
        assert_eq!(fs::read_dir(&store).expect("list").count(), 0, "nothing is left");
    }
    unpack(&blobs, &store, Limits::default()).expect("it is allowed otherwise");
}

/// A node killed while it unpacked would use half an image, or keep it for ever.
#[test]
fn half_an_image_is_never_used() {
    let work = tempfile::tempdir().expect("dir");
    let (image, store) = (work.path().join("image"), work.path().join("images"));
    layout(&image, &three_layers(), |_| {});
    let id = Blobs::open(&image).expect("open").recipe().expect("recipe").id;
    let half = store.join(format!("new-{id}"));
    fs::create_dir_all(half.join("rootfs/etc/leftover")).expect("mkdir");
    let unpacked = open(&image, &store).expect("open");
    assert!(!unpacked.files.join("etc/leftover").exists());
    fs::create_dir_all(store.join("new-other/rootfs")).expect("mkdir");
    sweep(&store).expect("sweep");
    assert_eq!(fs::read_dir(&store).expect("list").count(), 1);
    sweep(&work.path().join("nowhere")).expect("nothing to sweep");
}

/// Bytes of a hostile archive would crash the node, hang it, or write outside of the image.
#[test]
fn damaged_archives_are_refused_or_harmless() {
    let items = [
        dir("d"),
        file("d/f", "content"),
        link("l", "../.."),
        file(&"n".repeat(150), "long"),
        item("h", b'1', "d/f", ""),
        file("d/.wh.x", ""),
    ];
    let good = archive(&items);
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % u64::try_from(below).expect("below")).expect("fits")
    };
    for _ in 0..600 {
        let mut bad = good.clone();
        for _ in 0..=random(3) {
            let at = random(bad.len());
            bad[at] = u8::try_from(random(256)).expect("byte");
        }
        // A right checksum lets the damage in.
        for block in bad.chunks_mut(512).filter(|block| block.get(257..262) == Some(b"ustar")) {
            block[148..156].copy_from_slice(b"        ");
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        bad.truncate(bad.len() - random(2) * random(bad.len()));
        let outer = tempfile::tempdir().expect("dir");
        let files = outer.path().join("rootfs");
        fs::create_dir(&files).expect("mkdir");
        let limits = Limits { bytes: 1 << 20, entries: 100, ..Limits::default() };
        let laid = Tree::open(&files, limits).expect("open").lay(&mut &*bad);
        assert!(laid.is_ok() || laid.is_err());
        assert_eq!(fs::read_dir(outer.path()).expect("list").count(), 1);
    }
}
