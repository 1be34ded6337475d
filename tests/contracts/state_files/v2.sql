PRAGMA application_id=1953459041;
PRAGMA user_version=2;
BEGIN TRANSACTION;
CREATE TABLE agents (
  id TEXT PRIMARY KEY, position INTEGER NOT NULL, name TEXT NOT NULL, workstream TEXT NOT NULL, state TEXT NOT NULL, reason TEXT, pid INTEGER,
  progress REAL NOT NULL, tasks_done INTEGER NOT NULL, tasks_total INTEGER NOT NULL, attempts INTEGER NOT NULL, restarts INTEGER NOT NULL,
  started_at REAL, ended_at REAL, memory_bytes INTEGER, peak_memory_bytes INTEGER, cpu_time_s REAL, view TEXT NOT NULL
) STRICT;
INSERT INTO "agents" VALUES('v2abc00000-1',0,'build','build','failed','gate_failed: objective 1: exit 1',NULL,1.0,3,3,1,0,1700000004.5,1700000022.5,NULL,4096,1.5,'{"id":"v2abc00000-1","run_id":"v2abc00000","name":"build","title":"Build System","workstream":"build","domain":"infra","priority":"high","state":"failed","detail":null,"detail_since":null,"reason":"gate_failed: objective 1: exit 1","hint":"see the log","pid":null,"rung":"asked","progress":1.0,"tasks_done":3,"tasks_total":3,"attempts":1,"restarts":0,"started_at":"2023-11-14T22:13:24.500000Z","ended_at":"2023-11-14T22:13:42.500000Z","duration_s":18.0,"memory_bytes":null,"peak_memory_bytes":4096,"cpu_time_s":1.5,"worked_s":null,"denied":1,"tool_calls":1,"usage":{"llm_requests":2,"input_tokens":1850,"output_tokens":60,"cost_usd":null,"turns":3},"depends_on":[],"after":[],"grants":["filesystem-read"],"limits":{"memory_bytes":1024,"timeout_s":60.0},"isolation":{"level":"full","memory":"sampled"},"metrics":{"coverage":0.75},"tasks":[],"gates":[{"index":1,"description":"it builds","state":"failed","reason":"exit 1","exit_code":1,"output":"broken","duration_s":2.0}]}');
INSERT INTO "agents" VALUES('v2abc00000-2',1,'test','testing','skipped','dependency_failed: build',NULL,0.0,0,1,0,0,NULL,1700000023.5,NULL,NULL,NULL,'{"id":"v2abc00000-2","run_id":"v2abc00000","name":"test","title":"Tests","workstream":"testing","domain":null,"priority":"low","state":"skipped","detail":null,"detail_since":null,"reason":"dependency_failed: build","hint":null,"pid":null,"rung":null,"progress":0.0,"tasks_done":0,"tasks_total":1,"attempts":0,"restarts":0,"started_at":null,"ended_at":"2023-11-14T22:13:43.500000Z","duration_s":null,"memory_bytes":null,"peak_memory_bytes":null,"cpu_time_s":null,"worked_s":null,"denied":0,"tool_calls":0,"usage":{"llm_requests":0,"input_tokens":0,"output_tokens":0,"cost_usd":0.0,"turns":0},"depends_on":["build"],"after":["docs"],"grants":[],"limits":{},"isolation":{},"metrics":{},"tasks":[],"gates":[]}');
CREATE TABLE artifacts (
  id INTEGER PRIMARY KEY, at REAL NOT NULL, sha256 TEXT NOT NULL, name TEXT NOT NULL, size_bytes INTEGER NOT NULL, agent TEXT, task TEXT
) STRICT;
INSERT INTO "artifacts" VALUES(1,1700000007.5,'84f03f41e256f64568cb473785f9129d097f2d4b64e06f07e4fa2103a65ec63b','t1.log',13,'v2abc00000-1','t1');
CREATE TABLE attempts (
  agent TEXT NOT NULL, task TEXT NOT NULL, attempt INTEGER NOT NULL, started_at REAL NOT NULL, ended_at REAL, ended_by TEXT, reason TEXT,
  exit_code INTEGER, signal INTEGER, duration_s REAL, cpu_time_s REAL, peak_memory_bytes INTEGER, artifact TEXT,
  PRIMARY KEY (agent, task, attempt), FOREIGN KEY (agent, task) REFERENCES tasks (agent, id)
) STRICT;
INSERT INTO "attempts" VALUES('v2abc00000-1','t1',1,1700000007.0,1700000008.0,'task.retrying','exit 1',1,NULL,0.5,NULL,NULL,NULL);
INSERT INTO "attempts" VALUES('v2abc00000-1','t1',2,1700000008.5,1700000009.0,'task.succeeded',NULL,0,NULL,0.25,0.1,4096,'84f03f41e256f64568cb473785f9129d097f2d4b64e06f07e4fa2103a65ec63b');
INSERT INTO "attempts" VALUES('v2abc00000-1','t2',1,1700000009.5,1700000015.5,'task.failed','blocked: no grant',NULL,NULL,3.0,NULL,NULL,NULL);
INSERT INTO "attempts" VALUES('v2abc00000-1','t3',1,1700000016.0,1700000017.0,'task.requeued',NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "attempts" VALUES('v2abc00000-1','t3',2,1700000017.5,1700000019.5,'task.succeeded',NULL,NULL,NULL,1.0,NULL,NULL,NULL);
CREATE TABLE audit (
  seq INTEGER PRIMARY KEY, at REAL NOT NULL, action TEXT NOT NULL, decision TEXT NOT NULL CHECK (decision IN ('allowed', 'denied', 'recorded')),
  subject TEXT, context TEXT NOT NULL, prev_hash TEXT NOT NULL, hash TEXT NOT NULL
) STRICT;
INSERT INTO "audit" VALUES(1,1700000003.5,'agent.start','allowed','build','{"grants":["filesystem-read"]}','0000000000000000000000000000000000000000000000000000000000000000','ee7c9f3b5dca2f3d7422f73a62f40f19626829da1a5ece080e75da1511c7487a');
INSERT INTO "audit" VALUES(2,1700000011.0,'tool.call','allowed','v2abc00000-1','{"power":"filesystem-read","task":"t2","tool":"read_file"}','ee7c9f3b5dca2f3d7422f73a62f40f19626829da1a5ece080e75da1511c7487a','b91465c5b0e652a3fc99e9ff900f898084abec930731cd3412144e591341f854');
INSERT INTO "audit" VALUES(3,1700000013.0,'tool.call','denied','v2abc00000-1','{"missing":"filesystem-write","task":"t2","tool":"write_file"}','b91465c5b0e652a3fc99e9ff900f898084abec930731cd3412144e591341f854','30a7b64c8e72fc474ddef6155de4915e10e50bcf43fbca524d495b11f504c29a');
CREATE TABLE commands (
  seq INTEGER PRIMARY KEY, at REAL NOT NULL, command TEXT NOT NULL, by TEXT NOT NULL, target TEXT, arguments TEXT NOT NULL
) STRICT;
INSERT INTO "commands" VALUES(37,1700000021.5,'stop','user','v2abc00000-2','{"force":false}');
CREATE TABLE deps (
  agent TEXT NOT NULL REFERENCES agents (id), on_name TEXT NOT NULL, required INTEGER NOT NULL CHECK (required IN (0, 1)),
  PRIMARY KEY (agent, on_name, required)
) STRICT, WITHOUT ROWID;
INSERT INTO "deps" VALUES('v2abc00000-2','build',1);
INSERT INTO "deps" VALUES('v2abc00000-2','docs',0);
CREATE TABLE events (
  seq INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, agent TEXT, task TEXT, event TEXT NOT NULL
) STRICT;
INSERT INTO "events" VALUES(1,1700000001.0,'run.created',NULL,NULL,'{"kind":"run.created","run_id":"v2abc00000","workdir":"/home/me/project","version":"0.2.0","command":["toka","orchestrate","agents/"],"options":{"max_agents":2}}');
INSERT INTO "events" VALUES(2,1700000001.5,'run.warned',NULL,NULL,'{"kind":"run.warned","message":"memory is held by polling"}');
INSERT INTO "events" VALUES(3,1700000002.0,'run.started',NULL,NULL,'{"kind":"run.started"}');
INSERT INTO "events" VALUES(4,1700000002.5,'agent.created','v2abc00000-1',NULL,'{"kind":"agent.created","info":{"name":"build","title":"Build System","workstream":"build","domain":"infra","priority":"high","grants":["filesystem-read"],"limits":{"memory_bytes":1024,"timeout_s":60.0},"tasks":[{"id":"t1","description":"look around","kind":"command","priority":"high"},{"id":"t2","description":"repair it","kind":"prompt"},{"id":"t3","description":"write it down","kind":"prompt"}],"spec_path":"agents/build.yaml"}}');
INSERT INTO "events" VALUES(5,1700000003.0,'agent.created','v2abc00000-2',NULL,'{"kind":"agent.created","info":{"name":"test","title":"Tests","workstream":"testing","priority":"low","depends_on":["build"],"after":["docs"],"tasks":[{"id":"t1","description":"test","kind":"command"}]}}');
INSERT INTO "events" VALUES(6,1700000004.0,'agent.queued','v2abc00000-1',NULL,'{"kind":"agent.queued"}');
INSERT INTO "events" VALUES(7,1700000004.5,'agent.starting','v2abc00000-1',NULL,'{"kind":"agent.starting"}');
INSERT INTO "events" VALUES(8,1700000005.0,'agent.started','v2abc00000-1',NULL,'{"kind":"agent.started","pid":4242,"isolation":{"level":"full","memory":"sampled"}}');
INSERT INTO "events" VALUES(9,1700000005.5,'agent.noted','v2abc00000-1',NULL,'{"kind":"agent.noted","detail":"getting ready"}');
INSERT INTO "events" VALUES(10,1700000006.0,'agent.measured','v2abc00000-1',NULL,'{"kind":"agent.measured","name":"coverage","value":0.75}');
INSERT INTO "events" VALUES(11,1700000007.0,'task.started','v2abc00000-1','t1','{"kind":"task.started"}');
INSERT INTO "events" VALUES(12,1700000008.0,'task.retrying','v2abc00000-1','t1','{"kind":"task.retrying","attempt":1,"reason":"exit 1","delay_s":1.0,"outcome":{"exit_code":1,"output":"no","duration_s":0.5}}');
INSERT INTO "events" VALUES(13,1700000008.5,'task.started','v2abc00000-1','t1','{"kind":"task.started","attempt":2}');
INSERT INTO "events" VALUES(14,1700000009.0,'task.succeeded','v2abc00000-1','t1','{"kind":"task.succeeded","outcome":{"exit_code":0,"output":"yes","output_bytes":13,"artifact":"84f03f41e256f64568cb473785f9129d097f2d4b64e06f07e4fa2103a65ec63b","duration_s":0.25,"cpu_time_s":0.1,"peak_memory_bytes":4096}}');
INSERT INTO "events" VALUES(15,1700000009.5,'task.started','v2abc00000-1','t2','{"kind":"task.started"}');
INSERT INTO "events" VALUES(16,1700000010.0,'llm.started','v2abc00000-1','t2','{"kind":"llm.started","turn":1,"model":"openai/x"}');
INSERT INTO "events" VALUES(17,1700000010.5,'llm.replied','v2abc00000-1','t2','{"kind":"llm.replied","turn":1,"model":"openai/x","finish_reason":"tool_calls","input_tokens":900,"output_tokens":40,"cost_usd":0.0125,"cached_tokens":512,"calls":["read_file","write_file"],"duration_s":1.5,"waited_s":0.5}');
INSERT INTO "events" VALUES(18,1700000011.5,'tool.called','v2abc00000-1','t2','{"kind":"tool.called","call_id":"t2.1.1.0","tool":"read_file","arguments":{"path":"a"},"effect":"pure"}');
INSERT INTO "events" VALUES(19,1700000012.0,'tool.done','v2abc00000-1','t2','{"kind":"tool.done","call_id":"t2.1.1.0","ok":true,"result_bytes":5}');
INSERT INTO "events" VALUES(20,1700000012.5,'tool.denied','v2abc00000-1','t2','{"kind":"tool.denied","tool":"write_file","capability":"filesystem-write","message":"Capability not authorized: filesystem-write required for tool write_file"}');
INSERT INTO "events" VALUES(21,1700000013.5,'llm.started','v2abc00000-1','t2','{"kind":"llm.started","turn":2,"model":"openai/x"}');
INSERT INTO "events" VALUES(22,1700000014.0,'llm.failed','v2abc00000-1','t2','{"kind":"llm.failed","turn":2,"cause":"overloaded","message":"try later"}');
INSERT INTO "events" VALUES(23,1700000014.5,'llm.started','v2abc00000-1','t2','{"kind":"llm.started","turn":2,"model":"openai/x"}');
INSERT INTO "events" VALUES(24,1700000015.0,'llm.replied','v2abc00000-1','t2','{"kind":"llm.replied","turn":2,"model":"openai/x","finish_reason":"tool_calls","input_tokens":950,"output_tokens":20,"calls":["finish"],"duration_s":0.75}');
INSERT INTO "events" VALUES(25,1700000015.5,'task.failed','v2abc00000-1','t2','{"kind":"task.failed","reason":"blocked: no grant","outcome":{"output":"no grant","duration_s":3.0,"evidence":{"status":"blocked","summary":"no grant","evidence":[]}},"allowed":true}');
INSERT INTO "events" VALUES(26,1700000016.0,'task.started','v2abc00000-1','t3','{"kind":"task.started"}');
INSERT INTO "events" VALUES(27,1700000016.5,'llm.started','v2abc00000-1','t3','{"kind":"llm.started","turn":1,"model":"openai/x"}');
INSERT INTO "events" VALUES(28,1700000017.0,'task.requeued','v2abc00000-1','t3','{"kind":"task.requeued"}');
INSERT INTO "events" VALUES(29,1700000017.5,'task.started','v2abc00000-1','t3','{"kind":"task.started"}');
INSERT INTO "events" VALUES(30,1700000018.0,'llm.failed','v2abc00000-1','t3','{"kind":"llm.failed","turn":1,"cause":"abandoned","message":"interrupted; it may have been paid for"}');
INSERT INTO "events" VALUES(31,1700000018.5,'llm.started','v2abc00000-1','t3','{"kind":"llm.started","turn":1,"model":"openai/x"}');
INSERT INTO "events" VALUES(32,1700000019.0,'llm.replied','v2abc00000-1','t3','{"kind":"llm.replied","turn":1,"model":"openai/x","finish_reason":"stop","input_tokens":10,"output_tokens":5,"cost_usd":0.0,"from_cache":true,"calls":["finish"],"duration_s":0.0}');
INSERT INTO "events" VALUES(33,1700000019.5,'task.succeeded','v2abc00000-1','t3','{"kind":"task.succeeded","outcome":{"output":"written","duration_s":1.0,"evidence":{"status":"success","summary":"written","evidence":["a.md"]}}}');
INSERT INTO "events" VALUES(34,1700000020.0,'gate.started','v2abc00000-1',NULL,'{"kind":"gate.started","index":1,"description":"it builds"}');
INSERT INTO "events" VALUES(35,1700000020.5,'gate.failed','v2abc00000-1',NULL,'{"kind":"gate.failed","index":1,"description":"it builds","reason":"exit 1","outcome":{"exit_code":1,"output":"broken","duration_s":2.0}}');
INSERT INTO "events" VALUES(36,1700000021.0,'deliverable.recorded','v2abc00000-1',NULL,'{"kind":"deliverable.recorded","path":"a.md","size_bytes":3,"sha256":"abababababababababababababababababababababababababababababababab","objective":1}');
INSERT INTO "events" VALUES(37,1700000021.5,'command.received',NULL,NULL,'{"kind":"command.received","command":"stop","by":"user","target":"v2abc00000-2","arguments":{"force":false}}');
INSERT INTO "events" VALUES(38,1700000022.0,'agent.exited','v2abc00000-1',NULL,'{"kind":"agent.exited","exit_code":0,"rung":"asked","cpu_time_s":1.5,"peak_memory_bytes":4096}');
INSERT INTO "events" VALUES(39,1700000022.5,'agent.failed','v2abc00000-1',NULL,'{"kind":"agent.failed","reason":"gate_failed: objective 1: exit 1","hint":"see the log"}');
INSERT INTO "events" VALUES(40,1700000023.0,'task.skipped','v2abc00000-2','t1','{"kind":"task.skipped","reason":"dependency_failed: build"}');
INSERT INTO "events" VALUES(41,1700000023.5,'agent.skipped','v2abc00000-2',NULL,'{"kind":"agent.skipped","reason":"dependency_failed: build"}');
INSERT INTO "events" VALUES(42,1700000024.0,'run.failed',NULL,NULL,'{"kind":"run.failed","reason":"agents_failed: build"}');
CREATE TABLE llm_calls (
  id INTEGER PRIMARY KEY, agent TEXT NOT NULL REFERENCES agents (id), task TEXT, turn INTEGER NOT NULL, state TEXT NOT NULL, provider TEXT, model TEXT,
  started_at REAL NOT NULL, ended_at REAL, input_tokens INTEGER, output_tokens INTEGER, cost_usd REAL, error TEXT, request TEXT, response TEXT
, attempt INTEGER, finish_reason TEXT, cached_tokens INTEGER, duration_s REAL, waited_s REAL) STRICT;
INSERT INTO "llm_calls" VALUES(16,'v2abc00000-1','t2',1,'replied',NULL,'openai/x',1700000010.0,1700000010.5,900,40,0.0125,NULL,'{"messages":[{"role":"system","content":"You are an agent."},{"role":"user","content":"# Your task\nrepair it"}],"tools":["read_file","finish"],"temperature":0.3}','{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"read_file","arguments":"{\"path\": \"a\"}"}},{"id":"c2","type":"function","function":{"name":"write_file","arguments":"{\"path\": \"a\", \"content\": \"b\"}"}}]}',1,'tool_calls',512,1.5,0.5);
INSERT INTO "llm_calls" VALUES(21,'v2abc00000-1','t2',2,'failed',NULL,'openai/x',1700000013.5,1700000014.0,NULL,NULL,NULL,'overloaded: try later','{"answers":{"1":"Refused, and not retryable"},"tools":["read_file","finish"]}',NULL,1,NULL,NULL,NULL,NULL);
INSERT INTO "llm_calls" VALUES(23,'v2abc00000-1','t2',2,'replied',NULL,'openai/x',1700000014.5,1700000015.0,950,20,NULL,NULL,'{"shortened":[3],"dropped":0,"tools":["read_file","finish"]}','{"role":"assistant","content":"It cannot be done.","tool_calls":[{"id":"c3","type":"function","function":{"name":"finish","arguments":"{\"status\": \"blocked\", \"summary\": \"no grant\"}"}}]}',1,'tool_calls',0,0.75,0.0);
INSERT INTO "llm_calls" VALUES(27,'v2abc00000-1','t3',1,'abandoned',NULL,'openai/x',1700000016.5,1700000018.0,NULL,NULL,NULL,'abandoned: interrupted; it may have been paid for','{"messages":[{"role":"system","content":"You are an agent."},{"role":"user","content":"# Your task\nrepair it"}]}',NULL,1,NULL,NULL,NULL,NULL);
INSERT INTO "llm_calls" VALUES(31,'v2abc00000-1','t3',1,'replied',NULL,'openai/x',1700000018.5,1700000019.0,10,5,0.0,NULL,'{}','{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"finish","arguments":"{\"status\": \"success\", \"summary\": \"written\"}"}}]}',1,'stop',0,0.0,0.0);
CREATE TABLE owners (
  epoch INTEGER PRIMARY KEY, at REAL NOT NULL, pid INTEGER NOT NULL, start_time INTEGER, boot_id TEXT
) STRICT;
INSERT INTO "owners" VALUES(1,1700000000.5,1,2,'b');
CREATE TABLE plan (one INTEGER PRIMARY KEY CHECK (one = 1), json BLOB NOT NULL) STRICT;
INSERT INTO "plan" VALUES(1,X'7B227761766573223A5B5B226275696C64225D2C5B2274657374225D5D2C226167656E7473223A5B5D7D');
CREATE TABLE processes (
  agent TEXT NOT NULL REFERENCES agents (id), attempt INTEGER NOT NULL, started_at REAL NOT NULL, pid INTEGER, ended_at REAL, exit_code INTEGER,
  signal INTEGER, rung TEXT, cpu_time_s REAL, peak_memory_bytes INTEGER,
  PRIMARY KEY (agent, attempt)
) STRICT;
INSERT INTO "processes" VALUES('v2abc00000-1',1,1700000004.5,4242,1700000022.0,0,NULL,'asked',1.5,4096);
CREATE TABLE run (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  id TEXT NOT NULL, epoch INTEGER NOT NULL, state TEXT NOT NULL, reason TEXT, exit_code INTEGER, workdir TEXT NOT NULL,
  created_at REAL NOT NULL, started_at REAL, ended_at REAL, view TEXT NOT NULL
) STRICT;
INSERT INTO "run" VALUES(1,'v2abc00000',1,'failed','agents_failed: build',1,'/home/me/project',1700000000.5,1700000002.0,1700000024.0,'{"id":"v2abc00000","state":"failed","reason":"agents_failed: build","exit_code":1,"created_at":"2023-11-14T22:13:21Z","started_at":"2023-11-14T22:13:22Z","ended_at":"2023-11-14T22:13:44Z","duration_s":22.0,"workdir":"/home/me/project","command":["toka","orchestrate","agents/"],"version":"0.2.0","options":{"max_agents":2},"agents":[],"usage":{"llm_requests":2,"input_tokens":1850,"output_tokens":60,"cost_usd":null,"turns":3},"deliverables":[{"path":"a.md","size_bytes":3,"sha256":"abababababababababababababababababababababababababababababababab","agent":"build","objective":1}],"warnings":["memory is held by polling"],"held":null,"audit_head":"30a7b64c8e72fc474ddef6155de4915e10e50bcf43fbca524d495b11f504c29a","last_seq":42}');
CREATE TABLE samples (
  agent TEXT NOT NULL REFERENCES agents (id), slot INTEGER NOT NULL, n INTEGER NOT NULL, at REAL NOT NULL, memory_bytes INTEGER, cpu_time_s REAL,
  PRIMARY KEY (agent, slot)
) STRICT, WITHOUT ROWID;
INSERT INTO "samples" VALUES('v2abc00000-1',1,1,1700000006.5,2048,0.25);
CREATE TABLE tasks (
  agent TEXT NOT NULL REFERENCES agents (id), id TEXT NOT NULL, position INTEGER NOT NULL, kind TEXT NOT NULL, state TEXT NOT NULL, reason TEXT,
  attempts INTEGER NOT NULL, started_at REAL, ended_at REAL, duration_s REAL, exit_code INTEGER, artifact TEXT, view TEXT NOT NULL,
  PRIMARY KEY (agent, id)
) STRICT;
INSERT INTO "tasks" VALUES('v2abc00000-1','t1',0,'command','succeeded',NULL,2,1700000007.0,1700000009.0,2.0,0,'84f03f41e256f64568cb473785f9129d097f2d4b64e06f07e4fa2103a65ec63b','{"id":"t1","description":"look around","kind":"command","priority":"high","state":"succeeded","reason":null,"attempts":2,"started_at":"2023-11-14T22:13:27Z","ended_at":"2023-11-14T22:13:29Z","duration_s":2.0,"output":"yes","stderr":"","output_bytes":13,"truncated":false,"artifact":"84f03f41e256f64568cb473785f9129d097f2d4b64e06f07e4fa2103a65ec63b","exit_code":0,"signal":null,"value":null,"cpu_time_s":0.1,"peak_memory_bytes":4096,"usage":{"llm_requests":0,"input_tokens":0,"output_tokens":0,"cost_usd":0.0,"turns":0},"evidence":null}');
INSERT INTO "tasks" VALUES('v2abc00000-1','t2',1,'prompt','failed','blocked: no grant',1,1700000009.5,1700000015.5,3.0,NULL,NULL,'{"id":"t2","description":"repair it","kind":"prompt","priority":"medium","state":"failed","reason":"blocked: no grant","attempts":1,"started_at":"2023-11-14T22:13:29.500000Z","ended_at":"2023-11-14T22:13:35.500000Z","duration_s":3.0,"output":"no grant","stderr":"","output_bytes":0,"truncated":false,"artifact":null,"exit_code":null,"signal":null,"value":null,"cpu_time_s":null,"peak_memory_bytes":null,"usage":{"llm_requests":2,"input_tokens":1850,"output_tokens":60,"cost_usd":null,"turns":2},"evidence":{"status":"blocked","summary":"no grant","evidence":[]}}');
INSERT INTO "tasks" VALUES('v2abc00000-1','t3',2,'prompt','succeeded',NULL,2,1700000016.0,1700000019.5,3.5,NULL,NULL,'{"id":"t3","description":"write it down","kind":"prompt","priority":"medium","state":"succeeded","reason":null,"attempts":2,"started_at":"2023-11-14T22:13:36Z","ended_at":"2023-11-14T22:13:39.500000Z","duration_s":3.5,"output":"written","stderr":"","output_bytes":0,"truncated":false,"artifact":null,"exit_code":null,"signal":null,"value":null,"cpu_time_s":null,"peak_memory_bytes":null,"usage":{"llm_requests":0,"input_tokens":0,"output_tokens":0,"cost_usd":0.0,"turns":1},"evidence":{"status":"success","summary":"written","evidence":["a.md"]}}');
INSERT INTO "tasks" VALUES('v2abc00000-2','t1',0,'command','skipped','dependency_failed: build',0,NULL,1700000023.0,NULL,NULL,NULL,'{"id":"t1","description":"test","kind":"command","priority":"medium","state":"skipped","reason":"dependency_failed: build","attempts":0,"started_at":null,"ended_at":"2023-11-14T22:13:43Z","duration_s":null,"output":"","stderr":"","output_bytes":0,"truncated":false,"artifact":null,"exit_code":null,"signal":null,"value":null,"cpu_time_s":null,"peak_memory_bytes":null,"usage":{"llm_requests":0,"input_tokens":0,"output_tokens":0,"cost_usd":0.0,"turns":0},"evidence":null}');
CREATE TABLE tool_calls (
  seq INTEGER PRIMARY KEY, agent TEXT NOT NULL REFERENCES agents (id), task TEXT, call_id TEXT, tool TEXT NOT NULL, effect TEXT,
  state TEXT NOT NULL CHECK (state IN ('started', 'done', 'denied')), ok INTEGER, started_at REAL NOT NULL, ended_at REAL, capability TEXT, error TEXT,
  arguments TEXT
, result TEXT, artifact TEXT) STRICT;
INSERT INTO "tool_calls" VALUES(18,'v2abc00000-1','t2','t2.1.1.0','read_file','pure','done',1,1700000011.5,1700000012.0,NULL,NULL,'{"path":"a"}','a b c',NULL);
INSERT INTO "tool_calls" VALUES(20,'v2abc00000-1','t2',NULL,'write_file',NULL,'denied',0,1700000012.5,1700000012.5,'filesystem-write','Capability not authorized: filesystem-write required for tool write_file',NULL,NULL,NULL);
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
CREATE INDEX llm_calls_by_task ON llm_calls (agent, task);
COMMIT;
