-- The tables that the API shares with schedulers of 2014 and 2017. A scheduler of one generation
-- does not name the columns of the other: each of those is nullable or has a default.
--
-- These files set up an empty database, and declare what an existing one must have. declaration.py
-- reads them and refuses a statement that it could not compare with a database; its docstring lists
-- those that it accepts. Add a new column to its table, and one to declaration.SCHEMA_VERSION.
--
-- A table whose columns the API does not read is declared `if not exists`: an existing one stays as
-- it is.

create table mig_schema (
    version   integer primary key,
    appliedat timestamptz not null default now()
);

create table agents (
    id              numeric primary key,
    name            varchar(2048) not null,
    queueloc        varchar(2048) not null,
    os              varchar(2048),
    version         varchar(2048) not null,
    pid             integer not null,
    starttime       timestamptz not null,
    destructiontime timestamptz,
    heartbeattime   timestamptz not null,
    status          varchar(255),
    environment     json,
    tags            json,
    mode            varchar(2048) not null default '',
    refreshtime     timestamptz not null default '0001-01-01T00:00:00Z',
    loadername      varchar(2048)
);
create index agents_newest on agents (starttime, id);

create table actions (
    id             numeric primary key,
    name           varchar(2048) not null,
    target         varchar(2048) not null,
    description    json,
    threat         json,
    operations     json,
    validfrom      timestamptz not null,
    expireafter    timestamptz not null,
    starttime      timestamptz,
    finishtime     timestamptz,
    lastupdatetime timestamptz,
    status         varchar(256),
    pgpsignatures  json,
    syntaxversion  integer
);
create index actions_newest on actions (validfrom, id);

create table commands (
    id         numeric primary key,
    actionid   numeric references actions (id),
    agentid    numeric references agents (id),
    status     varchar(255) not null,
    results    json,
    starttime  timestamptz not null,
    finishtime timestamptz
);
create index commands_newest on commands (starttime, id);
create index commands_of_action on commands (actionid, starttime, id);
create index commands_of_agent on commands (agentid, starttime, id);

create sequence investigators_id_seq;
create table investigators (
    id             numeric primary key default nextval('investigators_id_seq'),
    name           varchar(1024) not null,
    pgpfingerprint varchar(128) unique,
    publickey      bytea,
    privatekey     bytea,
    status         varchar(255) not null,
    createdat      timestamptz not null,
    lastmodified   timestamptz not null,
    permissions    bigint not null default 0,
    apikey         bytea,
    apisalt        bytea
);
-- A 2014 database has no permissions. Investigators who may submit actions there may do so here. 63
-- is search, action, action_create, command, agent and dashboard, the lowest six bits.
-- when investigators.permissions is added:
update investigators set permissions = 63 where status = 'active';

create table signatures (
    actionid       numeric references actions (id),
    investigatorid numeric references investigators (id),
    pgpsignature   varchar(4096) not null,
    unique (actionid, investigatorid)
);
create index signatures_of_investigator on signatures (investigatorid);

-- Only the API uses this table: it says which actions came through the API, and is the outbox of the
-- hand-off to the scheduler. identity is the SHA-256 of the signed text in normal form; document is
-- what the scheduler gets, until it has it. No foreign key: a scheduler may delete its old actions.
create table submissions (
    identity   bytea primary key,
    actionid   numeric not null unique,
    submitted  timestamptz not null default now(),
    handedover timestamptz,
    document   text
);
create index submissions_waiting on submissions (handedover, submitted);
-- The daemon may change handedover alone. What is handed over is final, and needs its document no
-- more: nobody can put a row back into the outbox, least of all with another document.
create function close_submission() returns trigger language plpgsql as $$
begin
    if old.handedover is not null and new.handedover is distinct from old.handedover then
        raise exception 'action % has been handed over', old.actionid;
    end if;
    if new.handedover is not null then
        new.document := null;
    end if;
    return new;
end
$$;
create trigger submissions_close before update of handedover on submissions
    for each row execute function close_submission();

-- API keys. A key has its id in its text, and only its SHA-256 is stored; permissions are limited to
-- those that its investigator has at each use. No row is deleted: the audit names keys by id.
create sequence apikeys_id_seq;
create table apikeys (
    id             bigint primary key default nextval('apikeys_id_seq'),
    investigatorid numeric not null references investigators (id),
    name           varchar(256) not null,
    keyhash        bytea not null unique,
    permissions    bigint not null,
    createdat      timestamptz not null default now(),
    expiresat      timestamptz,
    revokedat      timestamptz
);
create index apikeys_of_investigator on apikeys (investigatorid);

-- When each key was used last, apart from the keys: it is written after the answer, once a minute.
create table apikeyuses (
    keyid    bigint primary key references apikeys (id),
    lastused timestamptz not null
);

-- Who changed what, and which requests were refused. The daemon only adds rows; the owner detaches old
-- months. No foreign keys: it outlives what it names. caller is null for who needed no credentials.
create sequence audit_id_seq;
create table audit (
    at         timestamptz not null,
    id         bigint not null default nextval('audit_id_seq'),
    operation  varchar(64) not null,
    caller     numeric,
    callername varchar(1024) not null,
    key        bigint,
    client     varchar(64),
    method     varchar(32),
    path       varchar(256),
    object     varchar(64) not null,
    objectid   numeric,
    before     json,
    after      json,
    outcome    varchar(256) not null,
    count      integer not null default 1,
    primary key (at, id)
) partition by range (at);
create table audit_default partition of audit default;
create index audit_of_id on audit (id);
create index audit_of_caller on audit (caller, at, id);

-- The partitions of a table by its column "at": for the current month (in UTC) and the next ones.
-- Rows that are already in the default partition move to their month.
create function create_months(relation text, months integer) returns void language plpgsql as $$
declare
    fallback text := relation || '_default';
    begins timestamp;
    month text;
    low timestamptz;
    high timestamptz;
begin
    for n in 0..months loop
        begins := date_trunc('month', now() at time zone 'UTC') + n * interval '1 month';
        month := relation || to_char(begins, '_YYYY_MM');
        continue when to_regclass(month) is not null;
        low := begins at time zone 'UTC';
        high := (begins + interval '1 month') at time zone 'UTC';
        execute format('lock table %I', fallback);
        execute format('create table %I (like %I including all)', month, relation);
        execute format(
            'with moved as (delete from %I where at >= %L and at < %L returning *)'
            ' insert into %I select * from moved',
            fallback, low, high, month
        );
        execute format(
            'alter table %I attach partition %I for values from (%L) to (%L)',
            relation, month, low, high
        );
    end loop;
end
$$;
select create_months('audit', 24);

create table if not exists modules (
    id   numeric primary key,
    name varchar(256) not null
);

create table if not exists agtmodreq (
    moduleid numeric references modules (id),
    agentid  numeric references agents (id),
    minimumweight integer not null,
    unique (moduleid, agentid)
);

create table if not exists invagtmodperm (
    investigatorid numeric references investigators (id),
    agentid        numeric references agents (id),
    moduleid       numeric references modules (id),
    weight         integer not null,
    unique (investigatorid, agentid, moduleid)
);

create table if not exists agents_stats (
    timestamp               timestamptz not null,
    online_agents           numeric,
    online_agents_by_version json,
    online_endpoints        numeric,
    idle_agents             numeric,
    idle_agents_by_version  json,
    idle_endpoints          numeric,
    new_endpoints           numeric,
    multi_agents_endpoints  numeric,
    disappeared_endpoints   numeric,
    flapping_endpoints      numeric
);

create table if not exists manifests (
    id        numeric primary key,
    name      varchar(256) not null,
    timestamp timestamptz not null,
    status    varchar(255) not null,
    target    varchar(2048) not null,
    content   text not null
);

create table if not exists manifestsig (
    manifestid     numeric references manifests (id),
    investigatorid numeric references investigators (id),
    pgpsignature   varchar(4096) not null,
    unique (manifestid, investigatorid)
);

create table if not exists loaders (
    id         numeric primary key,
    loadername varchar(256) not null unique,
    loaderkey  bytea,
    salt       bytea,
    name       varchar(2048),
    env        json,
    queueloc   varchar(2048),
    lastseen   timestamptz,
    enabled    boolean not null default false,
    expectenv  varchar(2048)
);
