#!lua flags=allow-oom
-- Removes an agent's history, and what the recent view has of it.
-- KEYS
--   1 history             of the agent
--   2 recent
--   3 agents
-- ARGV
--   1 agent
--   2 owner               what each member of this agent begins with
--   3 if_expired          '1': only if its history has expired
-- Answers 1, or 0 if it hasn't expired
local history, recent, agents = KEYS[1], KEYS[2], KEYS[3]
local agent, owner, if_expired = ARGV[1], ARGV[2], ARGV[3] == '1'
local PAGE = 1000
local now = redis.call('TIME')
local expires = redis.call('ZSCORE', agents, agent)
if if_expired and not (expires and tonumber(expires) <= tonumber(now[1]) * 1000 + tonumber(now[2]) / 1000) then
  return 0
end

local rank = 0
repeat
  local page = redis.call('ZRANGE', recent, rank, rank + PAGE - 1)
  for _, member in ipairs(page) do
    if string.sub(member, 1, #owner) == owner then
      redis.call('ZREM', recent, member)
    else
      rank = rank + 1
    end
  end
until #page < PAGE
redis.call('DEL', history)
redis.call('ZREM', agents, agent)
return 1
