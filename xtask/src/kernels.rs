//! The CUDA kernels' binary: built with a pinned compiler that any machine can fetch, committed, and checked.
//!
//! Nobody who builds the product needs a CUDA toolkit, and whoever changes `kernels.cu` must build the binary again: the check
//! compares hashes always, and the bytes wherever the compiler can be had.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

use crate::{judges, run, test};

const FOLDER: &str = "crates/prover/cuda";
const SOURCE: &str = "kernels.cu";
const FATBIN: &str = "kernels.fatbin";
const HASH: &str = "kernels.fatbin.b3";
const MANIFEST: &str = "kernels.manifest";
/// The binary is part of a program that is uploaded into leases.
const FATBIN_BYTES_MAX: usize = 600 << 10;
/// Where PTX comes from: nvcc with its front end.
const COMPILER: [&str; 4] = [
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-runtime==13.0.88",
];
/// Where machine code comes from: the last assembler whose code for chips up to sm_90 drivers of CUDA 12 load too.
const ASSEMBLER: [&str; 1] = ["nvidia-cuda-nvcc-cu12==12.9.86"];
/// Chips with code of their own, and the oldest PTX version that knows them and the kernels' instructions.
const TARGETS: [(&str, &str); 7] = [
    ("75", "7.8"),
    ("80", "7.8"),
    ("86", "7.8"),
    ("89", "7.8"),
    ("90", "7.8"),
    ("100", "8.6"),
    ("120", "8.7"),
];
/// The target whose PTX is for chips that come later.
const PTX_TARGET: &str = "80";
/// Every kernel, and how many registers a thread of it may have: what its blocks need to fit a multiprocessor as intended.
const KERNELS: [(&str, u32); 5] = [
    ("nic_operands", 64),
    ("nic_step", 128),
    ("nic_leaves", 64),
    ("nic_nodes", 64),
    ("nic_walks", 64),
];

/// What the assembler says about one kernel on one chip.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Usage {
    kernel: String,
    target: String,
    registers: u32,
    stack: u32,
    spills: u32,
}

/// A built binary, and the text that says how it came about.
#[derive(Debug)]
struct Built {
    fatbin: Vec<u8>,
    manifest: String,
}

/// Builds the binary and writes it with its hash and manifest into the tree.
pub(crate) fn build() -> anyhow::Result<()> {
    let python = judges::cuda_compiler(&test::target_folder()?, &packages())
        .map_err(anyhow::Error::msg)
        .context("fetch the compiler")?;
    let built = compile(&python)?;
    let folder = run::root().join(FOLDER);
    fs::write(folder.join(FATBIN), &built.fatbin)?;
    fs::write(folder.join(HASH), hash_line(&built.fatbin))?;
    fs::write(folder.join(MANIFEST), &built.manifest)?;
    check_recorded()?;
    println!("kernels: {} bytes in {FATBIN}", built.fatbin.len());
    Ok(())
}

/// The committed files against each other, then against a build where the compiler can be fetched.
pub(crate) fn check() -> anyhow::Result<()> {
    check_recorded()?;
    match judges::cuda_compiler(&test::target_folder()?, &packages()) {
        Ok(python) => check_rebuilt(&python),
        Err(why) => {
            eprintln!("xtask: KERNELS NOT REBUILT, only their hashes were compared: {why}");
            Ok(())
        }
    }
}

/// The committed files against each other: source, binary, hashes, sizes, registers. Needs no compiler.
pub(crate) fn check_recorded() -> anyhow::Result<()> {
    let folder = run::root().join(FOLDER);
    let read = |name: &str| fs::read(folder.join(name)).with_context(|| format!("read {name}"));
    let text = |name: &str| anyhow::Ok(String::from_utf8(read(name)?)?);
    let (source, fatbin) = (read(SOURCE)?, read(FATBIN)?);
    let breaches = breaches(&source, &fatbin, &text(HASH)?, &text(MANIFEST)?);
    for breach in &breaches {
        eprintln!("kernels: {breach}");
    }
    ensure!(
        breaches.is_empty(),
        "the committed kernels do not hold; build them: cargo xtask kernels"
    );
    println!("kernels: the committed binary is that of {SOURCE}");
    Ok(())
}

fn check_rebuilt(python: &Path) -> anyhow::Result<()> {
    let built = compile(python)?;
    let folder = run::root().join(FOLDER);
    let is_same = fs::read(folder.join(FATBIN))? == built.fatbin
        && fs::read_to_string(folder.join(MANIFEST))? == built.manifest;
    ensure!(is_same, "a build gives another binary than the committed one: cargo xtask kernels");
    println!("kernels: a build gives the committed bytes");
    Ok(())
}

fn packages() -> Vec<&'static str> {
    COMPILER.iter().chain(&ASSEMBLER).copied().collect()
}

/// Everything that is wrong with committed files.
fn breaches(source: &[u8], fatbin: &[u8], hash: &str, manifest: &str) -> Vec<String> {
    let mut breaches = Vec::new();
    let mut expect = |holds: bool, breach: String| {
        if !holds {
            breaches.push(breach);
        }
    };
    expect(hash == hash_line(fatbin), format!("{HASH} is not the hash of {FATBIN}"));
    let recorded = format!("fatbin {} {}\n", hash_of(fatbin), fatbin.len());
    expect(manifest.contains(&recorded), format!("{MANIFEST} does not name {FATBIN}"));
    let recorded = format!("source {}\n", hash_of(source));
    expect(
        manifest.contains(&recorded),
        format!("{SOURCE} was changed and {FATBIN} was not built"),
    );
    let size = fatbin.len();
    expect(size <= FATBIN_BYTES_MAX, format!("{size} bytes, at most {FATBIN_BYTES_MAX}"));
    let usages: Vec<Usage> = manifest.lines().filter_map(Usage::parse).collect();
    for (target, _) in TARGETS {
        for (kernel, registers_max) in KERNELS {
            let mut of_both = usages
                .iter()
                .filter(|usage| usage.kernel == kernel && usage.target == format!("sm_{target}"));
            let place = format!("{kernel} on sm_{target}");
            let (Some(usage), None) = (of_both.next(), of_both.next()) else {
                expect(false, format!("{place} does not stand in {MANIFEST} once"));
                continue;
            };
            expect(usage.stack == 0, format!("{place} has a stack of {} bytes", usage.stack));
            expect(usage.spills == 0, format!("{place} spills {} bytes", usage.spills));
            let registers = usage.registers;
            let fits = (1..=registers_max).contains(&registers);
            expect(fits, format!("{place} has {registers} registers, at most {registers_max}"));
        }
    }
    breaches
}

fn hash_of(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

fn hash_line(fatbin: &[u8]) -> String {
    format!("{}  {FATBIN}\n", hash_of(fatbin))
}

/// The programs of the compiler and of the assembler.
#[derive(Debug)]
struct Tools {
    bin: PathBuf,
    assembler: PathBuf,
    work: PathBuf,
}

impl Tools {
    fn find(python: &Path) -> anyhow::Result<Self> {
        let ask = "import sysconfig; print(sysconfig.get_paths()['purelib'])";
        let site = run::output(run::command(python, &["-c", ask]))?;
        let nvidia = Path::new(site.trim()).join("nvidia");
        let work = test::target_folder()?.join("kernels");
        if work.exists() {
            fs::remove_dir_all(&work)?;
        }
        fs::create_dir_all(&work)?;
        let assembler = nvidia.join("cuda_nvcc/bin/ptxas");
        Ok(Self { bin: nvidia.join("cu13/bin"), assembler, work })
    }

    /// A program that sees only names relative to the working folder, so that no path gets into its output.
    fn command(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = run::command(program, args);
        command.current_dir(&self.work);
        command
    }

    /// Compiles for one chip and returns what the assembler says.
    fn compile(&self, target: &str, ptx_version: &str) -> anyhow::Result<String> {
        let (ptx, cubin) = (format!("{target}.ptx"), format!("{target}.cubin"));
        let virtual_chip = format!("-arch=compute_{target}");
        let nvcc = self.bin.join("nvcc");
        let args = ["-std=c++17", "-O3", &virtual_chip, "-ptx", "-o", &ptx, SOURCE];
        run::must(self.command(&nvcc, &args))?;
        let path = self.work.join(&ptx);
        fs::write(&path, lowered(&fs::read_to_string(&path)?, ptx_version)?)?;
        let chip = format!("-arch=sm_{target}");
        let args = ["-v", "-O3", &chip, "-o", &cubin, &ptx];
        let mut assembler = self.command(&self.assembler, &args);
        let output = assembler.output().context("start ptxas")?;
        let said = String::from_utf8(output.stderr)? + &String::from_utf8(output.stdout)?;
        ensure!(output.status.success(), "ptxas for sm_{target}: {said}");
        Ok(said)
    }

    fn link(&self) -> anyhow::Result<Vec<u8>> {
        let mut args = vec![format!("--create={FATBIN}"), "-64".to_owned()];
        // Only later drivers read the PTX, so it may be compressed in today's way; machine code stays as it is.
        args.push("--compress-mode=speed".to_owned());
        for (target, _) in TARGETS {
            args.push(format!("--image3=kind=elf,sm={target},file={target}.cubin"));
        }
        args.push(format!("--image3=kind=ptx,sm={PTX_TARGET},file={PTX_TARGET}.ptx"));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        run::must(self.command(&self.bin.join("fatbinary"), &args))?;
        Ok(fs::read(self.work.join(FATBIN))?)
    }
}

fn compile(python: &Path) -> anyhow::Result<Built> {
    let tools = Tools::find(python)?;
    let source = fs::read(run::root().join(FOLDER).join(SOURCE))?;
    fs::write(tools.work.join(SOURCE), &source)?;
    let mut usages = Vec::new();
    for (target, ptx_version) in TARGETS {
        usages.extend(usages_of(&format!("sm_{target}"), &tools.compile(target, ptx_version)?)?);
    }
    let fatbin = tools.link()?;
    let mut manifest =
        String::from("# Written by `cargo xtask kernels`; its --check compares it.\n");
    writeln!(manifest, "source {}", hash_of(&source))?;
    writeln!(manifest, "fatbin {} {}", hash_of(&fatbin), fatbin.len())?;
    writeln!(manifest, "compiler {}", COMPILER.join(" "))?;
    writeln!(manifest, "assembler {}", ASSEMBLER.join(" "))?;
    for (target, ptx_version) in TARGETS {
        let also = if target == PTX_TARGET { ", and as PTX" } else { "" };
        writeln!(manifest, "code sm_{target} from PTX {ptx_version}{also}")?;
    }
    for usage in &usages {
        writeln!(manifest, "{}", usage.line())?;
    }
    Ok(Built { fatbin, manifest })
}

/// PTX with another version in its head; the assembler refuses it if it uses something newer.
fn lowered(ptx: &str, version: &str) -> anyhow::Result<String> {
    let line = ptx
        .lines()
        .find(|line| line.starts_with(".version "))
        .context("the compiler's PTX has no version")?;
    Ok(ptx.replacen(line, &format!(".version {version}"), 1))
}

/// Reads `ptxas -v`: a line that names the kernel, one with its stack and spills, one with its registers.
fn usages_of(target: &str, said: &str) -> anyhow::Result<Vec<Usage>> {
    let mut usages: Vec<Usage> = Vec::new();
    for line in said.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let kernel = rest.split('\'').next().unwrap_or_default().to_owned();
            let target = target.to_owned();
            usages.push(Usage { kernel, target, registers: 0, stack: 0, spills: 0 });
        } else if let Some(usage) = usages.last_mut() {
            if line.contains("bytes stack frame") {
                usage.stack = number_before(line, " bytes stack frame")?;
                let stores = number_before(line, " bytes spill stores")?;
                usage.spills = stores.saturating_add(number_before(line, " bytes spill loads")?);
            } else if line.contains(" registers") {
                usage.registers = number_before(line, " registers")?;
            }
        }
    }
    if usages.len() != KERNELS.len() {
        bail!("the assembler speaks of {} kernels for {target}: {said}", usages.len());
    }
    usages.sort_by(|a, b| a.kernel.cmp(&b.kernel));
    Ok(usages)
}

fn number_before(line: &str, word: &str) -> anyhow::Result<u32> {
    let before = line.split(word).next().unwrap_or_default();
    let digits = before.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().with_context(|| format!("no number before `{word}` in `{line}`"))
}

impl Usage {
    fn line(&self) -> String {
        let Self { kernel, target, registers, stack, spills } = self;
        format!("kernel {kernel} {target} registers {registers} stack {stack} spills {spills}")
    }

    fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split(' ').collect();
        let ["kernel", kernel, target, "registers", registers, "stack", stack, "spills", spills] =
            *words
        else {
            return None;
        };
        Some(Self {
            kernel: kernel.to_owned(),
            target: target.to_owned(),
            registers: registers.parse().ok()?,
            stack: stack.parse().ok()?,
            spills: spills.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "ptxas info    : Compiling entry function 'nic_step' for 'sm_80'\n\
        ptxas info    : Function properties for nic_step\n    \
        8 bytes stack frame, 16 bytes spill stores, 20 bytes spill loads\n\
        ptxas info    : Used 128 registers, used 1 barriers, 400 bytes cmem[0]\n";

    fn manifest(source: &[u8], fatbin: &[u8]) -> String {
        let mut text =
            format!("source {}\nfatbin {} {}\n", hash_of(source), hash_of(fatbin), fatbin.len());
        for (target, _) in TARGETS {
            for (kernel, registers) in KERNELS {
                let (kernel, target) = (kernel.to_owned(), format!("sm_{target}"));
                let usage = Usage { kernel, target, registers, stack: 0, spills: 0 };
                text += &usage.line();
                text.push('\n');
            }
        }
        text
    }

    /// A binary that is not the source's would run other kernels than the ones that were reviewed and tested.
    #[test]
    fn each_breach_is_named() {
        let (source, fatbin) = (b"source".as_slice(), b"binary".as_slice());
        let text = manifest(source, fatbin);
        let hash = hash_line(fatbin);
        assert_eq!(breaches(source, fatbin, &hash, &text), Vec::<String>::new());
        assert_eq!(breaches(b"Source", fatbin, &hash, &text).len(), 1);
        assert_eq!(breaches(source, b"Binary", &hash, &text).len(), 2);
        assert_eq!(breaches(source, fatbin, "", &text).len(), 1);
        let large = vec![0; FATBIN_BYTES_MAX + 1];
        let told = breaches(source, &large, &hash_line(&large), &manifest(source, &large));
        assert_eq!(told.len(), 1, "{told:?}");
        let step = "kernel nic_step sm_90 registers 128 stack 0 spills 0";
        for worse in [
            "kernel nic_step sm_90 registers 129 stack 0 spills 0",
            "kernel nic_step sm_90 registers 128 stack 8 spills 0",
            "kernel nic_step sm_90 registers 128 stack 0 spills 4",
            "kernel nic_step sm_90 registers 0 stack 0 spills 0",
            "",
            &format!("{step}\n{step}"),
        ] {
            let told = breaches(source, fatbin, &hash, &text.replace(step, worse));
            assert_eq!(told.len(), 1, "{worse}: {told:?}");
        }
    }

    /// A spill that the reader of the assembler's words overlooks would be committed.
    #[test]
    fn the_assemblers_words_are_read() {
        let four: String = ["a", "b", "c", "d"].map(|name| SAID.replace("nic_step", name)).concat();
        let usages = usages_of("sm_80", &format!("{SAID}{four}")).unwrap();
        let step = usages.iter().find(|usage| usage.kernel == "nic_step").unwrap();
        assert_eq!((step.registers, step.stack, step.spills), (128, 8, 36));
        assert_eq!(Usage::parse(&step.line()).as_ref(), Some(step));
        assert!(usages_of("sm_80", SAID).is_err());
    }

    /// PTX of a newer version than a driver knows is refused by it, whatever it contains.
    #[test]
    fn the_version_of_ptx_is_lowered() {
        let ptx = "// a comment\n.version 9.0\n.target sm_80\n";
        assert_eq!(lowered(ptx, "7.8").unwrap(), ptx.replace("9.0", "7.8"));
        assert!(lowered("", "7.8").is_err());
    }
}
