-- What each role may do. A role that does not exist gets nothing, and is not created: `create role`
-- would declare one that is. The usage of the schema follows from these grants.
--
-- migapi, the daemon's role, gets exactly the columns that the daemon and the command line use.
-- docs/privileges.md says what for; a test compares the two, and another one checks that each column
-- is needed.

grant select (version), update (appliedat) on mig_schema to migapi;
grant select (
    id, name, queueloc, os, version, pid, starttime, destructiontime, heartbeattime, status,
    environment, tags, mode, refreshtime, loadername
) on agents to migapi;
grant
    select (id, name, target, description, threat, operations, validfrom, expireafter, starttime,
        finishtime, lastupdatetime, status, pgpsignatures, syntaxversion),
    insert (id, name, target, description, threat, operations, validfrom, expireafter, starttime,
        finishtime, lastupdatetime, status, pgpsignatures, syntaxversion)
    on actions to migapi;
grant select (id, actionid, agentid, status, results, starttime, finishtime) on commands to migapi;
grant
    select (id, name, pgpfingerprint, publickey, status, createdat, lastmodified, permissions,
        apikey, apisalt),
    insert (id, name, pgpfingerprint, publickey, status, createdat, lastmodified, permissions),
    update (status, lastmodified, permissions, apikey, apisalt)
    on investigators to migapi;
grant usage on sequence investigators_id_seq to migapi;
grant
    select (id, investigatorid, name, keyhash, permissions, createdat, expiresat, revokedat),
    insert (id, investigatorid, name, keyhash, permissions, expiresat),
    update (revokedat)
    on apikeys to migapi;
grant usage on sequence apikeys_id_seq to migapi;
grant
    select (keyid, lastused),
    insert (keyid, lastused),
    update (lastused)
    on apikeyuses to migapi;
-- Rows of the audit are only added: no update, no delete, and nothing on the partitions.
grant
    select (id, at, operation, caller, callername, key, client, method, path, object, objectid,
        before, after, outcome, count),
    insert (at, operation, caller, callername, key, client, method, path, object, objectid, before,
        after, outcome, count)
    on audit to migapi;
grant usage on sequence audit_id_seq to migapi;
grant
    select (actionid, investigatorid),
    insert (actionid, investigatorid, pgpsignature)
    on signatures to migapi;
grant
    select (identity, actionid, submitted, handedover, document),
    insert (identity, actionid, handedover, document),
    update (handedover)
    on submissions to migapi;

-- granted before version 3:
revoke select on
    mig_schema, agents, actions, commands, signatures, submissions,
    modules, agtmodreq, invagtmodperm, agents_stats, manifests, manifestsig, loaders
    from migapi;
-- granted before version 3:
revoke insert on actions, signatures, submissions from migapi;
-- granted before version 3:
revoke insert (apikey, apisalt) on investigators from migapi;
-- granted before version 3:
revoke update (document) on submissions from migapi;
