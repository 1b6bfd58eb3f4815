PRAGMA application_id=1949526636;
PRAGMA user_version=1;
BEGIN TRANSACTION;
CREATE TABLE backups (
    path text primary key, user text not null, wrote text not null, target text not null, level integer not null,
    fingerprint text, created real not null, run text not null
) without rowid;
INSERT INTO "backups" VALUES('/var/backups/t3-state/ada/state-prebump-0.0.25-nightly.20260609.501-20260601T041500000000Z.sqlite','ada','0.0.24','0.0.25-nightly.20260609.501',30,'[[11, 22, 33], null]',1780287300.0,'bump-0');
INSERT INTO "backups" VALUES('/var/backups/t3-state/ada/state-prebump-0.0.25-nightly.20260610.502-20260602T041500000000Z.sqlite','ada','0.0.25-nightly.20260609.501','0.0.25-nightly.20260610.502',32,'null',1780287301.0,'bump-1');
CREATE TABLE deferrals (
    user text primary key, run text not null, target text not null, since real not null,
    checks integer not null default 0, next_check real, waiting_for text not null, detail text not null default '',
    revoked integer not null default 0
) without rowid;
INSERT INTO "deferrals" VALUES('grace','drain-20260601T041700-bbbbbb','0.0.25-nightly.20260609.501',1.79565475083911204341e+09,0,1780288000.0,'active_turn','',0);
CREATE TABLE events (
    run text not null references runs (id), seq integer not null, at real not null,
    kind text not null, step text, attempt integer, data text not null,
    primary key (run, seq)
) without rowid;
INSERT INTO "events" VALUES('bump-20260601T041500-aaaaaa',1,1780287301.0,'created',NULL,NULL,'{"args": {"target": "0.0.25-nightly.20260609.501"}}');
INSERT INTO "events" VALUES('bump-20260601T041500-aaaaaa',2,1780287302.0,'started','held',1,'{"args": [], "kwargs": {}}');
INSERT INTO "events" VALUES('bump-20260601T041500-aaaaaa',3,1780287303.0,'completed','held',1,'{"result": ""}');
INSERT INTO "events" VALUES('bump-20260601T041500-aaaaaa',4,1780287304.0,'acquired','host',NULL,'{}');
INSERT INTO "events" VALUES('bump-20260601T041500-aaaaaa',5,1780287305.0,'started','resolve',1,'{"args": ["0.0.25-nightly.20260609.501"], "kwargs": {}}');
INSERT INTO "events" VALUES('bump-20260601T041500-aaaaaa',6,1780287306.0,'completed','resolve',1,'{"result": {"default": "0.0.24", "target": "0.0.25-nightly.20260609.501", "exact": true, "notices": []}}');
INSERT INTO "events" VALUES('bump-20260601T041500-aaaaaa',7,1780287307.0,'started','guard',1,'{"args": [{"default": "0.0.24", "target": "0.0.25-nightly.20260609.501", "exact": true, "notices": []}, false, []], "kwargs": {}}');
INSERT INTO "events" VALUES('bump-20260601T041500-aaaaaa',8,1780287308.0,'completed','guard',1,'{"result": {"outcome": "", "reason": ""}}');
INSERT INTO "events" VALUES('bump-20260601T041500-aaaaaa',9,1780287309.0,'started','link_everyone',1,'{"args": ["0.0.24"], "kwargs": {}}');
INSERT INTO "events" VALUES('bump-20260601T041500-aaaaaa',10,1780287310.0,'completed','link_everyone',1,'{"result": []}');
INSERT INTO "events" VALUES('bump-20260601T041500-aaaaaa',11,1780287311.0,'started','open_scratch',1,'{"args": [], "kwargs": {}}');
INSERT INTO "events" VALUES('bump-20260601T041500-aaaaaa',12,1780287312.0,'completed','open_scratch',1,'{"result": null}');
INSERT INTO "events" VALUES('bump-20260601T041500-aaaaaa',13,1780287313.0,'started','stage',1,'{"args": ["0.0.25-nightly.20260609.501", false], "kwargs": {}}');
INSERT INTO "events" VALUES('bump-20260601T041500-aaaaaa',14,1780287314.0,'completed','stage',1,'{"result": {"slot": "/sandbox/opt/t3/versions/0.0.25-nightly.20260609.501", "notices": [], "signatures": "not checked: the registry has no signing keys"}}');
INSERT INTO "events" VALUES('bump-20260601T041500-aaaaaa',15,1780287315.0,'started','people',1,'{"args": [[]], "kwargs": {}}');
INSERT INTO "events" VALUES('bump-20260601T041500-aaaaaa',16,1780287316.0,'completed','people',1,'{"result": [{"user": "ada", "version": "0.0.24", "running": true}, {"user": "grace", "version": "0.0.24", "running": true}]}');
INSERT INTO "events" VALUES('bump-20260601T041500-aaaaaa',17,1780287317.0,'started','back_up',1,'{"args": ["ada", "0.0.24", "0.0.25-nightly.20260609.501", false], "kwargs": {}}');
INSERT INTO "events" VALUES('bump-20260601T041500-aaaaaa',18,1780287318.0,'completed','back_up',1,'{"result": {"user": "ada", "path": "/sandbox/backups/ada/state-prebump-0.0.25-nightly.20260609.501-20261125T075753191530Z.sqlite", "bytes": 2924544, "level": 30, "fingerprint": [[2154617, 2924544, 1795593471166071599], [2154674, 53592, 1795593472771752918]], "problem": "", "missing": false}}');
INSERT INTO "events" VALUES('bump-20260601T041500-aaaaaa',19,1780287319.0,'started','back_up',1,'{"args": ["grace", "0.0.24", "0.0.25-nightly.20260609.501", false], "kwargs": {}}');
CREATE TABLE facts (key text primary key, value text not null) without rowid;
INSERT INTO "facts" VALUES('kept','{"ada/replaced-20260601T041500Z": "0.0.25-nightly.20260609.501"}');
INSERT INTO "facts" VALUES('levels','{"0.0.24": 30, "0.0.25-nightly.20260609.501": 32}');
INSERT INTO "facts" VALUES('rejected_for','{"0.0.25-nightly.20260608.400": ["ada"]}');
INSERT INTO "facts" VALUES('taking:ada','"/var/backups/t3-state/ada/state-prebump-0.0.25-nightly.20260610.502-20260603T041500000000Z.sqlite"');
CREATE TABLE locks (name text primary key, run text not null, since real not null) without rowid;
CREATE TABLE meta (key text primary key, value text not null) without rowid;
CREATE TABLE rejected (version text primary key, reason text not null, at real not null) without rowid;
INSERT INTO "rejected" VALUES('0.0.25-nightly.20260608.400','it fails',1.79565475087494778633e+09);
CREATE TABLE runs (
    id text primary key, workflow text not null, args text not null,
    status text not null default 'running',  -- running | succeeded | failed | cancelled
    outcome text, result text,
    priority integer not null default 0,
    created real not null, updated real not null,
    wake_at real,                -- when its next hint is due; null: waits for the host lock
    message text,                -- id of the queued hint that stands for it
    claim text,                  -- INCARNATION/NUMBER of the worker that has it now
    held text                    -- why it is not to be woken: frozen | revoked
) without rowid;
INSERT INTO "runs" VALUES('bump-20260601T041500-aaaaaa','bump','{"target": "0.0.25-nightly.20260609.501"}','running',NULL,NULL,0,1.79565475080860424044e+09,1.79565475080884718889e+09,1.79565475080860424044e+09,NULL,NULL,NULL);
CREATE TABLE signals (run text not null, name text not null, at real not null, primary key (run, name)) without rowid;
CREATE INDEX runs_pending on runs (status, wake_at);
CREATE INDEX runs_created on runs (created);
COMMIT;
