-- What MIG's own scripts of 2017 gave the other roles of MIG, on the objects that a migration creates.
-- On an existing object, a role keeps what the administrator has given it. Where the scripts gave a
-- role whole tables, these are the tables of MIG: nobody but migapi uses those of this service.
--
-- migscheduler reads everything, and writes what a scheduler writes. It makes its own key, with an
-- id of the sequence.

-- when each is created:
grant select on
    agents, actions, commands, investigators, signatures,
    modules, agtmodreq, invagtmodperm, agents_stats, manifests, manifestsig, loaders
    to migscheduler;
-- when each is created:
grant insert, update on actions, commands, agents, agents_stats, signatures to migscheduler;
-- when each is created:
grant insert on investigators to migscheduler;
-- when each is created:
grant usage on sequence investigators_id_seq to migscheduler;

-- migreadonly reads what the target of an action may name. migapi and migscheduler are members. Only
-- searches with target= need it, so a migration works without it (docs/decisions/0057).

-- only for searches with target=:
create role migreadonly;
grant migreadonly to migapi;
grant select on agents, actions, commands, signatures to migreadonly;
grant select (id, name, pgpfingerprint, publickey, status, createdat, lastmodified)
    on investigators to migreadonly;
-- A condition cannot fill the disk of the server.
-- only for searches with target=:
alter role migapi set temp_file_limit = '1GB';

-- when each is created:
grant select on agtmodreq, invagtmodperm, modules to migreadonly;
-- when each is created:
grant select (id, env, expectenv, loadername, queueloc) on loaders to migreadonly;
