-- What goes onto the streams, now or later.
-- uses nothing

-- Onto the stream of its class, which is made when it is first needed: an idle crew has none. Returns the entry's id.
local there = {}
local function put(class, ...)
  local stream = STREAM[class]
  if not there[class] then
    there[class] = true
    if redis.call('EXISTS', stream) == 0 then redis.call('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM') end
  end
  return redis.call('XADD', stream, '*', ...)
end

-- `delayed` is ordered by time; what it holds says all that the stream's entry needs.
local DELAYED_ATTEMPT = '^[^\31]*\31[^\31]*\31([^\31]*)\31'
local function delayed_name(id, class, agent, attempt) return agent .. FS .. class .. FS .. attempt .. FS .. id end

local function delay(id, class, agent, attempt, due)
  local member = delayed_name(id, class, agent, attempt)
  redis.call('ZADD', DELAYED, due, member)
  return redis.call('ZRANGE', DELAYED, 0, 0)[1] == member     -- nothing is due before it: somebody must look sooner
end

-- Onto the streams with what is due. Returns how many that were. Their records can't be written here: they keep saying
-- `delayed` until the task runs, returns or ends.
local function move_due(most)
  local due = redis.call('ZRANGEBYSCORE', DELAYED, '-inf', now_ms, 'LIMIT', 0, most)
  for _, member in ipairs(due) do
    local agent, class, attempt, id = string.match(member, '^([^\31]*)\31([^\31]*)\31([^\31]*)\31(.*)$')
    put(class, 'id', id, 'agent', agent, 'attempt', attempt)
  end
  if #due > 0 then redis.call('ZREM', DELAYED, unpack(due)) end
  return #due
end

-- When the next one is due, in ms; nil: there is none.
local function next_due()
  local first = redis.call('ZRANGE', DELAYED, 0, 0, 'WITHSCORES')
  return first[2] and tonumber(first[2])
end
