-- Work that is due later. A zset by time, beside the streams; what it holds says all that the stream's entry needs.

local function delay(id, class, agent, attempt, due)
  local member = agent .. FS .. class .. FS .. attempt .. FS .. id
  redis.call('ZADD', DELAYED, due, member)
  return redis.call('ZRANGE', DELAYED, 0, 0)[1] == member     -- nothing is due before it: somebody must look sooner
end

-- Onto the streams with what is due. Returns how many that were.
local function move_due(most)
  local due = redis.call('ZRANGEBYSCORE', DELAYED, '-inf', now_ms, 'LIMIT', 0, most)
  for _, member in ipairs(due) do
    local agent, class, attempt, id = string.match(member, '^([^\31]*)\31([^\31]*)\31([^\31]*)\31(.*)$')
    redis.call('XADD', STREAM[class], '*', 'id', id, 'agent', agent, 'attempt', attempt)
  end
  if #due > 0 then redis.call('ZREM', DELAYED, unpack(due)) end
  return #due
end

-- When the next one is due, in ms; nil: there is none.
local function next_due()
  local first = redis.call('ZRANGE', DELAYED, 0, 0, 'WITHSCORES')
  return first[2] and tonumber(first[2])
end
