use super::*;

#[test]
fn a_queue_is_waited_for_as_tables_are() {
    let config = EngineConfig {
        cores: vec![None; 2],
        idle: crate::Idle::Adaptive,
        fdb_capacity: 1024,
        fdb_seed: 1,
    };
    let (mut engine, mut workers) = Engine::manual(&config).expect("descriptors");
    engine.publish(Snapshot::default()).expect("tables");
    for worker in &mut workers {
        worker.turn();
    }
    engine.wait_applied().expect("both have the tables");
    let (port, _peer) = clearway_io::memory_port(4).expect("descriptors");
    engine
        .add_queue(WorkerId(0), PortId(0), 0, AnyPort::Memory(port), None)
        .expect("a queue");
    let waiting = std::thread::spawn(move || engine.wait_applied().map(|()| engine));
    for worker in &mut workers {
        std::thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished(), "a worker does not know of the queue yet");
        worker.turn();
    }
    let ended = waiting.join().expect("no panic");
    assert!(ended.is_ok(), "both know of it");
}

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
