-- Entries of the streams, and work that becomes one later.
-- uses nothing

-- Adds an entry to the stream of its class, and returns its id. The stream is made when it is first needed: an idle
-- crew has none.
local there = {}
local function put(class, ...)
  local stream = STREAM[class]
  if not there[class] then
    there[class] = true
    if redis.call('EXISTS', stream) == 0 then redis.call('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM') end
  end
  return redis.call('XADD', stream, '*', ...)
end

-- A member of `delayed` or `parked:agent` says all that the entry will need (packed.Member in Python).
local MEMBER = '^([^\31]*)\31([^\31]*)\31([^\31]*)\31(.*)$'
local function pack_member(id, class, agent, attempt) return agent .. FS .. class .. FS .. attempt .. FS .. id end

-- `delayed` is ordered by time. Whether nothing else is due before it, so that somebody must look sooner.
local function delay(id, class, agent, attempt, due)
  local member = pack_member(id, class, agent, attempt)
  redis.call('ZADD', DELAYED, due, member)
  return redis.call('ZRANGE', DELAYED, 0, 0)[1] == member
end

-- Moves what is due onto the streams. Returns how many that were. Their records can't be written here: they keep saying
-- `delayed` until the task runs, returns or ends.
local function move_due(most)
  local due = redis.call('ZRANGEBYSCORE', DELAYED, '-inf', now_ms, 'LIMIT', 0, most)
  for _, member in ipairs(due) do
    local agent, class, attempt, id = string.match(member, MEMBER)
    put(class, 'id', id, 'agent', agent, 'attempt', attempt)
  end
  if #due > 0 then redis.call('ZREM', DELAYED, unpack(due)) end
  return #due
end

-- When the next one is due, in ms; nil where there is none.
local function next_due()
  local first = redis.call('ZRANGE', DELAYED, 0, 0, 'WITHSCORES')
  return first[2] and tonumber(first[2])
end
