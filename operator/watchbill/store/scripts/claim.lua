#!lua flags=allow-oom
-- uses events holders streams leases letters limits gate claims
-- Claims tasks, and begins some of them.
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
--   9 ...                 agents with roles, as far as the caller knows them (`know_agents` in lib_limits.lua)
-- Answers
--   {'gone'}
--   {'fenced'}
--   {'unknown'}
--   what `claim` says
local uid, inc, number = ARGV[1], ARGV[2], ARGV[3]
local bar = barred(uid, inc, number == '1')
if bar then return { bar } end
know_agents(9, FIXED + 1)
local answer = claim(inc)
settle()
return answer
