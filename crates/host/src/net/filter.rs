//! The machine's own packet filter, where it drops whatever it forwards: Docker's engine sets it up so.
//!
//! A packet must pass every table, so ours alone cannot let it through. Two rules, at the end of the forward chain so that
//! the operator's own come first, let pass what our table let pass before. They carry the node's label and go with its last
//! wire.

use serde_json::Value;

use super::NetError;
use super::names::Node;
use super::program::Program;

/// How long another program may hold the packet filter's lock, in seconds.
const LOCK_SECONDS: &str = "10";
/// Copies of a rule that are removed at once; more are left to the next sweep.
const COPIES_MAX: usize = 16;

/// Lets tenants' packets pass where the machine would drop them.
pub(super) fn admit(
    iptables: Option<&Program>,
    nft: &Program,
    node: &Node,
) -> Result<(), NetError> {
    let Some(iptables) = iptables else {
        let why = "iptables is not installed to tell it otherwise";
        return if drops(nft)? { Err(NetError::Filtered { why }) } else { Ok(()) };
    };
    let listed = list(iptables)?;
    if !listed.lines().any(|line| line == "-P FORWARD DROP") {
        return Ok(());
    }
    for rule in rules(node) {
        if !listed.lines().any(|line| is_rule(line, &rule)) {
            change(iptables, "-A", &rule)?;
        }
    }
    Ok(())
}

/// Removes the rules of `admit`, wherever they stand and however often.
pub(super) fn withdraw(iptables: Option<&Program>, node: &Node) -> Result<(), NetError> {
    let Some(iptables) = iptables else { return Ok(()) };
    let listed = list(iptables)?;
    for rule in rules(node) {
        let copies = listed.lines().filter(|line| is_rule(line, &rule)).count();
        for _ in 0..copies.min(COPIES_MAX) {
            change(iptables, "-D", &rule)?;
        }
    }
    Ok(())
}

fn list(iptables: &Program) -> Result<String, NetError> {
    iptables.must("list the forward chain", &["-w", LOCK_SECONDS, "-S", "FORWARD"], "")
}

fn change(iptables: &Program, verb: &str, rule: &[String]) -> Result<(), NetError> {
    let mut args = vec!["-w", LOCK_SECONDS, verb, "FORWARD"];
    args.extend(rule.iter().map(String::as_str));
    iptables.must("change the forward chain", &args, "").map(drop)
}

fn rules(node: &Node) -> [Vec<String>; 2] {
    let links = format!("{}+", node.prefix());
    let comment = node.comment();
    let out = ["-i", &*links, "-m", "comment", "--comment", &*comment, "-j", "ACCEPT"];
    let back = [
        "-o",
        &*links,
        "-m",
        "conntrack",
        "--ctstate",
        "RELATED,ESTABLISHED",
        "-m",
        "comment",
        "--comment",
        &*comment,
        "-j",
        "ACCEPT",
    ];
    [out.map(str::to_owned).into(), back.map(str::to_owned).into()]
}

/// Whether a listed line is the rule; versions differ in whether they quote a comment.
fn is_rule(line: &str, rule: &[String]) -> bool {
    let words = line.split(' ').map(|word| word.trim_matches('"')).skip(2);
    line.starts_with("-A FORWARD ") && words.eq(rule.iter().map(String::as_str))
}

fn drops(nft: &Program) -> Result<bool, NetError> {
    let args = ["-j", "list", "chain", "ip", "filter", "FORWARD"];
    let ran = nft.run("list the forward chain", &args, "")?;
    let listed: Value = serde_json::from_str(&ran.output).unwrap_or_default();
    let objects = listed.get("nftables").and_then(Value::as_array).into_iter().flatten();
    let mut policies = objects.filter_map(|object| object.get("chain")?.get("policy"));
    Ok(ran.is_ok && policies.any(|policy| policy == "drop"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A rule that is not found again is added once more at every look, and stays for ever.
    #[test]
    fn listed_rules_are_recognised() {
        let node = Node::new("n");
        let [out, back] = rules(&node);
        let (links, comment) = (format!("{}+", node.prefix()), node.comment());
        let lines = [
            format!("-A FORWARD -i {links} -m comment --comment \"{comment}\" -j ACCEPT"),
            format!("-A FORWARD -i {links} -m comment --comment {comment} -j ACCEPT"),
        ];
        assert!(lines.iter().all(|line| is_rule(line, &out) && !is_rule(line, &back)));
        let line = format!(
            "-A FORWARD -o {links} -m conntrack --ctstate RELATED,ESTABLISHED -m comment \
             --comment \"{comment}\" -j ACCEPT"
        );
        assert!(is_rule(&line, &back));
        assert!(!is_rule("-P FORWARD DROP", &out));
        let [other, _] = rules(&Node::new("other"));
        assert!(!is_rule(&lines[0], &other));
    }
}
