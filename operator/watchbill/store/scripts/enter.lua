#!lua flags=allow-oom
-- uses events holders streams leases letters limits gate claims spawns
-- An incarnation begins, with a claim of nothing. The feeds say of those of its agents that were spawned which were not
-- there; if no other worker lives, all of them were stopped before. A call names as many as hold the store briefly;
-- further calls name the others.
-- KEYS fixed, then agent_events of each agent
-- ARGV
--   1 uid
--   2 inc
--   3 number              of the claim; this and what follows up to `highest` is read by `claim` (lib_claims.lua)
--   4 slots
--   5 begin
--   6 lease_ms
--   7 take_over
--   8 highest
--   9 since               of a further call: when the first one was answered, in ms; '': it is the first
--   10 ...                agents
-- Answers
--   {'gone'}
--   {'fenced'}
--   {'unknown'}
--   what `claim` says
local uid, inc, number, since = ARGV[1], ARGV[2], ARGV[3], ARGV[9]
local bar = barred(uid, inc, number == '1')
if bar then return { bar } end
if not last_claim or since ~= '' then
  local agents, streams = named_agents(9)
  if is_alone(inc, now) then tell_stopped(agents, streams, 'its last worker has vanished', tonumber(since)) end
  for i, agent in ipairs(agents) do
    if redis.call('HSETNX', META, 'spawned:' .. agent, now) == 1 then
      event('agent_spawned', '"agent_id":' .. quote(agent) .. ',"spawn_mode":"fresh","message":'
        .. quote('with worker ' .. inc), streams[i])
    end
  end
end
local answer = claim(inc)
settle()
return answer
