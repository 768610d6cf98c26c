#!lua flags=allow-oom
-- uses events spawns
-- The processes of these incarnations are known to have ended: their work may be taken at once. With the last one all
-- agents are stopped.
-- KEYS fixed, then agent_events of each agent
-- ARGV
--   1 uid
--   2 n                   incarnations, which follow; behind them the agents that are there
-- Answers gone | ok
local uid, n = ARGV[1], tonumber(ARGV[2])
if is_gone(uid) then return 'gone' end
for i = 1, n do
  local inc = ARGV[2 + i]
  redis.call('ZADD', LEASES, 'XX', 0, inc)
end
if is_alone('', 0) then
  local agents, streams = named_agents(2 + n)
  tell_stopped(agents, streams, 'its last worker has died')
end
ring()
return 'ok'
