-- What each role may do. A role that does not exist gets nothing, and is not created: `create role`
-- would declare one that is. The usage of the schema follows from these grants.
--
-- migapi, the daemon's role, reads everything but the schedulers' private key, and writes what a
-- submission, an investigator and the hand-off need.

grant select on
    mig_schema, agents, actions, commands, signatures, submissions,
    modules, agtmodreq, invagtmodperm, agents_stats, manifests, manifestsig, loaders
    to migapi;
grant
    select (id, name, pgpfingerprint, publickey, status, createdat, lastmodified,
        permissions, apikey, apisalt),
    insert (id, name, pgpfingerprint, publickey, status, createdat, lastmodified,
        permissions, apikey, apisalt),
    update (status, lastmodified, permissions, apikey, apisalt)
    on investigators to migapi;
grant usage on sequence investigators_id_seq to migapi;
grant insert on actions, signatures, submissions to migapi;
grant update (handedover, document) on submissions to migapi;
