//! What the doctor is told of this host.

use serde_json::Value;

use super::{Far, isolate, sh};
use crate::host::doctor::{Severity, doctor};
use crate::host::facts::{AfXdpMode, Facts};
use crate::host::links::XdpMode;
use crate::host::napi::NapiKnobs;
use crate::host::{Host, program};

#[test]
fn the_facts_are_those_of_this_host() {
    isolate();
    let far = Far::new();
    far.attach();
    let mut host = Host::open().expect("root can open a host");
    let facts = Facts::gather(&mut host, &["near".into(), "nothing".into()], &[0]);
    assert_eq!(facts.kernel, sh("uname -r").trim());
    assert_eq!(facts.af_xdp_refusal, None);
    assert!(facts.bpf && facts.capabilities["NET_ADMIN"] && facts.capabilities["SYS_ADMIN"]);
    assert_eq!(facts.cores.online.len().to_string(), sh("nproc --all").trim());
    assert!(facts.numa_nodes.values().flatten().eq(&facts.cores.online));
    let [near, nothing] = &facts.interfaces[..] else {
        panic!("{facts:?}")
    };
    assert_eq!(near.af_xdp_mode, Some(AfXdpMode::NativeCopy));
    assert!(near.xdp.is_some_and(|xdp| xdp.multi_buffer && !xdp.zero_copy));
    assert_eq!(near.offloads_in_the_way.len(), 4);
    assert_eq!(
        near.napi,
        Some(NapiKnobs {
            defer_hard_irqs: 0,
            gro_flush_timeout: 0
        })
    );
    assert!(nothing.link.is_none());
    let findings = doctor(&facts);
    let bad: Vec<_> = findings
        .iter()
        .filter(|f| f.severity == Severity::Bad)
        .map(|f| &f.subject)
        .collect();
    assert_eq!(bad, ["nothing"]);
    serde_json::to_string(&facts).expect("facts are data");
}

#[test]
fn an_attached_xdp_program_is_seen_with_its_name() {
    isolate();
    sh("ip link add w0 type veth peer name w1");
    let object = concat!(env!("CARGO_MANIFEST_DIR"), "/../fastpath/io/xdp/clearway.bpf.o");
    sh(&format!("ip link set w0 xdpgeneric obj {object} sec xdp.frags"));
    let mut host = Host::open().expect("root can open a host");
    let link = host.link("w0").expect("it was made above");
    let listed: Vec<Value> = serde_json::from_str(&sh("ip -j -d link show w0")).expect("ip prints JSON");
    let id = listed[0]["xdp"]["prog"]["id"]
        .as_u64()
        .expect("ip shows the program");
    let [program] = &link.xdp[..] else {
        panic!("{link:?}")
    };
    assert_eq!((program.mode, u64::from(program.id)), (XdpMode::Generic, id));
    let name: Value = serde_json::from_str(&sh(&format!("bpftool -j prog show id {id}"))).expect("JSON");
    assert_eq!(program::name(program.id).as_deref(), name["name"].as_str());
    sh("ip link set w0 xdpgeneric off");
    assert_eq!(host.link("w0").expect("it was made above").xdp, []);
    assert_eq!(program::name(u32::MAX), None);
}
