#!lua flags=allow-oom
-- Removes histories, and the whole recent view.
-- KEYS
--   1 recent
--   2 agents
--   3 ...                 histories
-- ARGV
--   1 ...                 their agents
-- Answers 1
local recent, agents = KEYS[1], KEYS[2]
local FIRST = 3
redis.call('DEL', recent)
for i = FIRST, #KEYS do
  local history, agent = KEYS[i], ARGV[i - FIRST + 1]
  redis.call('DEL', history)
  redis.call('ZREM', agents, agent)
end
return 1
