use super::*;

#[test]
fn an_engine_that_is_dropped_leaves_no_worker_behind() {
    for idle in [crate::Idle::Adaptive, crate::Idle::Spin] {
        let engine = Engine::start(&EngineConfig {
            cores: vec![None; 4],
            idle,
            fdb_capacity: 1024,
            fdb_seed: 1,
        })
        .expect("descriptors and threads");
        let workers: Vec<_> = engine.workers.iter().map(|w| Arc::downgrade(&w.status)).collect();
        drop(engine);
        assert!(workers.iter().all(|worker| worker.upgrade().is_none()));
    }
}
