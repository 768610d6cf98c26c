#!lua flags=allow-oom
-- uses events holders streams leases letters limits gate claims spawns
-- An incarnation ends in good order. What it still holds (nothing, normally) may be taken at once. With the
-- last one all agents are stopped.
-- KEYS fixed, then agent_events of each agent
-- ARGV
--   1 uid
--   2 inc
--   3 ...                 agents that are there
-- Answers gone | ok
local uid, inc = ARGV[1], ARGV[2]
if is_gone(uid) then return 'gone' end
redis.call('HDEL', WORKERS, inc)
others().fence(inc)
if not others().remove_if_empty(inc) then
  redis.call('ZADD', LEASES, 0, inc)
  ring()
elseif queued() > 0 then
  ring()      -- it may have heard the bell in the place of somebody who is to claim
end
if is_alone(inc, 0) then
  local agents, streams = named_agents(2)
  tell_stopped(agents, streams, 'its last worker has left')
end
return 'ok'
