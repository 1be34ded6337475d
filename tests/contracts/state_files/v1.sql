PRAGMA application_id=1953459041;
PRAGMA user_version=1;
BEGIN TRANSACTION;
CREATE TABLE agents (
  id TEXT PRIMARY KEY, position INTEGER NOT NULL, name TEXT NOT NULL, workstream TEXT NOT NULL, state TEXT NOT NULL, reason TEXT, pid INTEGER,
  progress REAL NOT NULL, tasks_done INTEGER NOT NULL, tasks_total INTEGER NOT NULL, attempts INTEGER NOT NULL, restarts INTEGER NOT NULL,
  started_at REAL, ended_at REAL, memory_bytes INTEGER, peak_memory_bytes INTEGER, cpu_time_s REAL, view TEXT NOT NULL
) STRICT;
INSERT INTO "agents" VALUES('v1abc00000-1',0,'build','build','failed','task_failed: t2',NULL,1.0,2,2,1,0,1700000004.5,1700000014.5,NULL,4096,1.5,'{"id":"v1abc00000-1","run_id":"v1abc00000","name":"build","title":"Build System","workstream":"build","domain":"infra","priority":"high","state":"failed","detail":null,"reason":"task_failed: t2","hint":"see the log","pid":null,"rung":"asked","progress":1.0,"tasks_done":2,"tasks_total":2,"attempts":1,"restarts":0,"started_at":"2023-11-14T22:13:24.500000Z","ended_at":"2023-11-14T22:13:34.500000Z","duration_s":10.0,"memory_bytes":null,"peak_memory_bytes":4096,"cpu_time_s":1.5,"denied":1,"tool_calls":1,"usage":{"llm_requests":0,"input_tokens":0,"output_tokens":0,"cost_usd":0.0},"depends_on":[],"after":[],"grants":["command-execution"],"limits":{"memory_bytes":1024,"timeout_s":60.0},"isolation":{"memory":"sampled"},"metrics":{"coverage":0.75},"tasks":[],"gates":[{"index":1,"description":"it builds","state":"failed","reason":"exit 1","exit_code":1,"output":"no wheel","duration_s":null}]}');
INSERT INTO "agents" VALUES('v1abc00000-2',1,'test','testing','skipped','dependency_failed: build',NULL,0.0,0,1,0,0,NULL,1700000015.5,NULL,NULL,NULL,'{"id":"v1abc00000-2","run_id":"v1abc00000","name":"test","title":"Tests","workstream":"testing","domain":null,"priority":"medium","state":"skipped","detail":null,"reason":"dependency_failed: build","hint":null,"pid":null,"rung":null,"progress":0.0,"tasks_done":0,"tasks_total":1,"attempts":0,"restarts":0,"started_at":null,"ended_at":"2023-11-14T22:13:35.500000Z","duration_s":null,"memory_bytes":null,"peak_memory_bytes":null,"cpu_time_s":null,"denied":0,"tool_calls":0,"usage":{"llm_requests":0,"input_tokens":0,"output_tokens":0,"cost_usd":0.0},"depends_on":["build"],"after":["docs"],"grants":[],"limits":{},"isolation":{},"metrics":{},"tasks":[],"gates":[]}');
CREATE TABLE artifacts (
  id INTEGER PRIMARY KEY, at REAL NOT NULL, sha256 TEXT NOT NULL, name TEXT NOT NULL, size_bytes INTEGER NOT NULL, agent TEXT, task TEXT
) STRICT;
INSERT INTO "artifacts" VALUES(1,1700000007.0,'8a817457e600ced1aa1c190b41106ab5dfd5113f45c46b08d5723711513a128b','t1.out',13,'v1abc00000-1','t1');
CREATE TABLE attempts (
  agent TEXT NOT NULL, task TEXT NOT NULL, attempt INTEGER NOT NULL, started_at REAL NOT NULL, ended_at REAL, ended_by TEXT, reason TEXT,
  exit_code INTEGER, signal INTEGER, duration_s REAL, cpu_time_s REAL, peak_memory_bytes INTEGER, artifact TEXT,
  PRIMARY KEY (agent, task, attempt), FOREIGN KEY (agent, task) REFERENCES tasks (agent, id)
) STRICT;
INSERT INTO "attempts" VALUES('v1abc00000-1','t1',1,1700000007.5,1700000008.0,'task.retrying','exit 1',1,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "attempts" VALUES('v1abc00000-1','t1',2,1700000008.5,1700000009.0,'task.succeeded',NULL,0,NULL,0.4,0.1,2000,'8a817457e600ced1aa1c190b41106ab5dfd5113f45c46b08d5723711513a128b');
INSERT INTO "attempts" VALUES('v1abc00000-1','t2',1,1700000011.5,1700000012.0,'task.failed','exit 2',2,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE audit (
  seq INTEGER PRIMARY KEY, at REAL NOT NULL, action TEXT NOT NULL, decision TEXT NOT NULL CHECK (decision IN ('allowed', 'denied', 'recorded')),
  subject TEXT, context TEXT NOT NULL, prev_hash TEXT NOT NULL, hash TEXT NOT NULL
) STRICT;
INSERT INTO "audit" VALUES(1,1700000003.5,'agent.start','allowed','build','{"grants":["command-execution"]}','0000000000000000000000000000000000000000000000000000000000000000','a43ad6fb79101af0a9d87ce98cf4909f8e26a4ea5507b3b3a9979da64ca201cd');
INSERT INTO "audit" VALUES(2,1700000011.0,'web.fetch','denied','build','{"capability":"network-access"}','a43ad6fb79101af0a9d87ce98cf4909f8e26a4ea5507b3b3a9979da64ca201cd','e3b3d7857e8ce79d13ff3d1b9c444a4e066de9da16d4768e6ba71079f2dd95fc');
CREATE TABLE commands (
  seq INTEGER PRIMARY KEY, at REAL NOT NULL, command TEXT NOT NULL, by TEXT NOT NULL, target TEXT, arguments TEXT NOT NULL
) STRICT;
INSERT INTO "commands" VALUES(23,1700000014.0,'stop','user','v1abc00000-2','{"force":false}');
CREATE TABLE deps (
  agent TEXT NOT NULL REFERENCES agents (id), on_name TEXT NOT NULL, required INTEGER NOT NULL CHECK (required IN (0, 1)),
  PRIMARY KEY (agent, on_name, required)
) STRICT, WITHOUT ROWID;
INSERT INTO "deps" VALUES('v1abc00000-2','build',1);
INSERT INTO "deps" VALUES('v1abc00000-2','docs',0);
CREATE TABLE events (
  seq INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, agent TEXT, task TEXT, event TEXT NOT NULL
) STRICT;
INSERT INTO "events" VALUES(1,1700000001.0,'run.created',NULL,NULL,'{"kind":"run.created","run_id":"v1abc00000","workdir":"/home/me/project","version":"0.1.0","command":["toka","orchestrate","agents/"],"options":{"max_agents":2}}');
INSERT INTO "events" VALUES(2,1700000001.5,'run.warned',NULL,NULL,'{"kind":"run.warned","message":"no cgroups: memory is sampled","code":"enforcement"}');
INSERT INTO "events" VALUES(3,1700000002.0,'run.started',NULL,NULL,'{"kind":"run.started"}');
INSERT INTO "events" VALUES(4,1700000002.5,'agent.created','v1abc00000-1',NULL,'{"kind":"agent.created","info":{"name":"build","title":"Build System","workstream":"build","domain":"infra","priority":"high","grants":["command-execution"],"limits":{"memory_bytes":1024,"timeout_s":60.0},"tasks":[{"id":"t1","description":"make it","kind":"command","priority":"high"},{"id":"t2","description":"check it","kind":"code"}]}}');
INSERT INTO "events" VALUES(5,1700000003.0,'agent.created','v1abc00000-2',NULL,'{"kind":"agent.created","info":{"name":"test","title":"Tests","workstream":"testing","depends_on":["build"],"after":["docs"],"tasks":[{"id":"t1","description":"run tests","kind":"command"}]}}');
INSERT INTO "events" VALUES(6,1700000004.0,'agent.queued','v1abc00000-1',NULL,'{"kind":"agent.queued"}');
INSERT INTO "events" VALUES(7,1700000004.5,'agent.starting','v1abc00000-1',NULL,'{"kind":"agent.starting"}');
INSERT INTO "events" VALUES(8,1700000005.0,'agent.started','v1abc00000-1',NULL,'{"kind":"agent.started","pid":4242,"isolation":{"memory":"sampled"}}');
INSERT INTO "events" VALUES(9,1700000005.5,'agent.noted','v1abc00000-1',NULL,'{"kind":"agent.noted","detail":"idle"}');
INSERT INTO "events" VALUES(10,1700000006.0,'agent.measured','v1abc00000-1',NULL,'{"kind":"agent.measured","name":"coverage","value":0.75}');
INSERT INTO "events" VALUES(11,1700000007.5,'task.started','v1abc00000-1','t1','{"kind":"task.started"}');
INSERT INTO "events" VALUES(12,1700000008.0,'task.retrying','v1abc00000-1','t1','{"kind":"task.retrying","attempt":1,"reason":"exit 1","delay_s":0.5,"outcome":{"exit_code":1,"stderr":"flaky"}}');
INSERT INTO "events" VALUES(13,1700000008.5,'task.started','v1abc00000-1','t1','{"kind":"task.started","attempt":2}');
INSERT INTO "events" VALUES(14,1700000009.0,'task.succeeded','v1abc00000-1','t1','{"kind":"task.succeeded","outcome":{"exit_code":0,"output":"whole","output_bytes":13,"truncated":true,"artifact":"8a817457e600ced1aa1c190b41106ab5dfd5113f45c46b08d5723711513a128b","duration_s":0.4,"cpu_time_s":0.1,"peak_memory_bytes":2000}}');
INSERT INTO "events" VALUES(15,1700000009.5,'tool.called','v1abc00000-1','t2','{"kind":"tool.called","call_id":"c1","tool":"file.read","arguments":{"path":"README.md"},"effect":"pure"}');
INSERT INTO "events" VALUES(16,1700000010.0,'tool.done','v1abc00000-1','t2','{"kind":"tool.done","call_id":"c1","ok":true}');
INSERT INTO "events" VALUES(17,1700000010.5,'tool.denied','v1abc00000-1','t2','{"kind":"tool.denied","tool":"web.fetch","capability":"network-access","message":"network-access required"}');
INSERT INTO "events" VALUES(18,1700000011.5,'task.started','v1abc00000-1','t2','{"kind":"task.started"}');
INSERT INTO "events" VALUES(19,1700000012.0,'task.failed','v1abc00000-1','t2','{"kind":"task.failed","reason":"exit 2","outcome":{"exit_code":2}}');
INSERT INTO "events" VALUES(20,1700000012.5,'gate.started','v1abc00000-1',NULL,'{"kind":"gate.started","index":1,"description":"it builds"}');
INSERT INTO "events" VALUES(21,1700000013.0,'gate.failed','v1abc00000-1',NULL,'{"kind":"gate.failed","index":1,"description":"it builds","reason":"exit 1","outcome":{"exit_code":1,"output":"no wheel"}}');
INSERT INTO "events" VALUES(22,1700000013.5,'deliverable.recorded','v1abc00000-1',NULL,'{"kind":"deliverable.recorded","path":"reports/build.md","size_bytes":12,"sha256":"abababababababababababababababababababababababababababababababab","objective":1}');
INSERT INTO "events" VALUES(23,1700000014.0,'command.received',NULL,NULL,'{"kind":"command.received","command":"stop","by":"user","target":"v1abc00000-2","arguments":{"force":false}}');
INSERT INTO "events" VALUES(24,1700000014.5,'agent.failed','v1abc00000-1',NULL,'{"kind":"agent.failed","reason":"task_failed: t2","hint":"see the log"}');
INSERT INTO "events" VALUES(25,1700000015.0,'agent.exited','v1abc00000-1',NULL,'{"kind":"agent.exited","exit_code":1,"rung":"asked","cpu_time_s":1.5,"peak_memory_bytes":4096}');
INSERT INTO "events" VALUES(26,1700000015.5,'agent.skipped','v1abc00000-2',NULL,'{"kind":"agent.skipped","reason":"dependency_failed: build"}');
INSERT INTO "events" VALUES(27,1700000016.0,'run.failed',NULL,NULL,'{"kind":"run.failed","reason":"agent_failed: build"}');
CREATE TABLE llm_calls (
  id INTEGER PRIMARY KEY, agent TEXT NOT NULL REFERENCES agents (id), task TEXT, turn INTEGER NOT NULL, state TEXT NOT NULL, provider TEXT, model TEXT,
  started_at REAL NOT NULL, ended_at REAL, input_tokens INTEGER, output_tokens INTEGER, cost_usd REAL, error TEXT, request TEXT, response TEXT
) STRICT;
CREATE TABLE owners (
  epoch INTEGER PRIMARY KEY, at REAL NOT NULL, pid INTEGER NOT NULL, start_time INTEGER, boot_id TEXT
) STRICT;
INSERT INTO "owners" VALUES(1,1700000000.5,1,2,'b');
CREATE TABLE plan (one INTEGER PRIMARY KEY CHECK (one = 1), json BLOB NOT NULL) STRICT;
INSERT INTO "plan" VALUES(1,X'7B227761766573223A5B5B226275696C64225D2C5B2274657374225D5D7D');
CREATE TABLE processes (
  agent TEXT NOT NULL REFERENCES agents (id), attempt INTEGER NOT NULL, started_at REAL NOT NULL, pid INTEGER, ended_at REAL, exit_code INTEGER,
  signal INTEGER, rung TEXT, cpu_time_s REAL, peak_memory_bytes INTEGER,
  PRIMARY KEY (agent, attempt)
) STRICT;
INSERT INTO "processes" VALUES('v1abc00000-1',1,1700000004.5,4242,1700000015.0,1,NULL,'asked',1.5,4096);
CREATE TABLE run (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  id TEXT NOT NULL, epoch INTEGER NOT NULL, state TEXT NOT NULL, reason TEXT, exit_code INTEGER, workdir TEXT NOT NULL,
  created_at REAL NOT NULL, started_at REAL, ended_at REAL, view TEXT NOT NULL
) STRICT;
INSERT INTO "run" VALUES(1,'v1abc00000',1,'failed','agent_failed: build',1,'/home/me/project',1700000000.5,1700000002.0,1700000016.0,'{"id":"v1abc00000","state":"failed","reason":"agent_failed: build","exit_code":1,"created_at":"2023-11-14T22:13:21Z","started_at":"2023-11-14T22:13:22Z","ended_at":"2023-11-14T22:13:36Z","duration_s":14.0,"workdir":"/home/me/project","command":["toka","orchestrate","agents/"],"version":"0.1.0","options":{"max_agents":2},"agents":[],"usage":{"llm_requests":0,"input_tokens":0,"output_tokens":0,"cost_usd":0.0},"deliverables":[{"path":"reports/build.md","size_bytes":12,"sha256":"abababababababababababababababababababababababababababababababab","agent":"build","objective":1}],"warnings":["no cgroups: memory is sampled"],"audit_head":"e3b3d7857e8ce79d13ff3d1b9c444a4e066de9da16d4768e6ba71079f2dd95fc","last_seq":27}');
CREATE TABLE samples (
  agent TEXT NOT NULL REFERENCES agents (id), slot INTEGER NOT NULL, n INTEGER NOT NULL, at REAL NOT NULL, memory_bytes INTEGER, cpu_time_s REAL,
  PRIMARY KEY (agent, slot)
) STRICT, WITHOUT ROWID;
INSERT INTO "samples" VALUES('v1abc00000-1',1,1,1700000006.5,2048,0.25);
CREATE TABLE tasks (
  agent TEXT NOT NULL REFERENCES agents (id), id TEXT NOT NULL, position INTEGER NOT NULL, kind TEXT NOT NULL, state TEXT NOT NULL, reason TEXT,
  attempts INTEGER NOT NULL, started_at REAL, ended_at REAL, duration_s REAL, exit_code INTEGER, artifact TEXT, view TEXT NOT NULL,
  PRIMARY KEY (agent, id)
) STRICT;
INSERT INTO "tasks" VALUES('v1abc00000-1','t1',0,'command','succeeded',NULL,2,1700000007.5,1700000009.0,1.5,0,'8a817457e600ced1aa1c190b41106ab5dfd5113f45c46b08d5723711513a128b','{"id":"t1","description":"make it","kind":"command","priority":"high","state":"succeeded","reason":null,"attempts":2,"started_at":"2023-11-14T22:13:27.500000Z","ended_at":"2023-11-14T22:13:29Z","duration_s":1.5,"output":"whole","stderr":"","output_bytes":13,"truncated":true,"artifact":"8a817457e600ced1aa1c190b41106ab5dfd5113f45c46b08d5723711513a128b","exit_code":0,"signal":null,"value":null,"cpu_time_s":0.1,"peak_memory_bytes":2000,"usage":{"llm_requests":0,"input_tokens":0,"output_tokens":0,"cost_usd":0.0},"evidence":null}');
INSERT INTO "tasks" VALUES('v1abc00000-1','t2',1,'code','failed','exit 2',1,1700000011.5,1700000012.0,0.5,2,NULL,'{"id":"t2","description":"check it","kind":"code","priority":"medium","state":"failed","reason":"exit 2","attempts":1,"started_at":"2023-11-14T22:13:31.500000Z","ended_at":"2023-11-14T22:13:32Z","duration_s":0.5,"output":"","stderr":"","output_bytes":0,"truncated":false,"artifact":null,"exit_code":2,"signal":null,"value":null,"cpu_time_s":null,"peak_memory_bytes":null,"usage":{"llm_requests":0,"input_tokens":0,"output_tokens":0,"cost_usd":0.0},"evidence":null}');
INSERT INTO "tasks" VALUES('v1abc00000-2','t1',0,'command','pending',NULL,0,NULL,NULL,NULL,NULL,NULL,'{"id":"t1","description":"run tests","kind":"command","priority":"medium","state":"pending","reason":null,"attempts":0,"started_at":null,"ended_at":null,"duration_s":null,"output":"","stderr":"","output_bytes":0,"truncated":false,"artifact":null,"exit_code":null,"signal":null,"value":null,"cpu_time_s":null,"peak_memory_bytes":null,"usage":{"llm_requests":0,"input_tokens":0,"output_tokens":0,"cost_usd":0.0},"evidence":null}');
CREATE TABLE tool_calls (
  seq INTEGER PRIMARY KEY, agent TEXT NOT NULL REFERENCES agents (id), task TEXT, call_id TEXT, tool TEXT NOT NULL, effect TEXT,
  state TEXT NOT NULL CHECK (state IN ('started', 'done', 'denied')), ok INTEGER, started_at REAL NOT NULL, ended_at REAL, capability TEXT, error TEXT,
  arguments TEXT
) STRICT;
INSERT INTO "tool_calls" VALUES(15,'v1abc00000-1','t2','c1','file.read','pure','done',1,1700000009.5,1700000010.0,NULL,NULL,'{"path":"README.md"}');
INSERT INTO "tool_calls" VALUES(17,'v1abc00000-1','t2',NULL,'web.fetch',NULL,'denied',0,1700000010.5,1700000010.5,'network-access','network-access required',NULL);
CREATE INDEX agents_by_name ON agents (name);
CREATE INDEX tool_calls_by_call ON tool_calls (agent, call_id);
CREATE INDEX artifacts_by_sha256 ON artifacts (sha256);
CREATE TRIGGER events_epoch BEFORE INSERT ON events WHEN toka_epoch() IS NOT (SELECT epoch FROM run)
  BEGIN SELECT RAISE(ABORT, 'toka: this run has a new owner'); END;
CREATE TRIGGER audit_epoch BEFORE INSERT ON audit WHEN toka_epoch() IS NOT (SELECT epoch FROM run)
  BEGIN SELECT RAISE(ABORT, 'toka: this run has a new owner'); END;
CREATE TRIGGER agents_epoch BEFORE INSERT ON agents WHEN toka_epoch() IS NOT (SELECT epoch FROM run)
  BEGIN SELECT RAISE(ABORT, 'toka: this run has a new owner'); END;
CREATE TRIGGER artifacts_epoch BEFORE INSERT ON artifacts WHEN toka_epoch() IS NOT (SELECT epoch FROM run)
  BEGIN SELECT RAISE(ABORT, 'toka: this run has a new owner'); END;
CREATE TRIGGER samples_epoch BEFORE INSERT ON samples WHEN toka_epoch() IS NOT (SELECT epoch FROM run)
  BEGIN SELECT RAISE(ABORT, 'toka: this run has a new owner'); END;
CREATE TRIGGER run_epoch BEFORE UPDATE ON run WHEN NEW.epoch IS NOT toka_epoch() OR NEW.epoch NOT IN (OLD.epoch, OLD.epoch + 1)
  BEGIN SELECT RAISE(ABORT, 'toka: this run has a new owner'); END;
CREATE TRIGGER events_kept BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'toka: events are only added'); END;
CREATE TRIGGER events_fixed BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'toka: events are only added'); END;
CREATE TRIGGER audit_kept BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'toka: audit rows are only added'); END;
CREATE TRIGGER audit_fixed BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'toka: audit rows are only added'); END;
COMMIT;
