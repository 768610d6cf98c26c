#!lua flags=allow-oom
-- uses nothing
-- A task's turn goes into its session, while the task is its worker's own: behind the turn that it follows, which is
-- the newest unless it names one. A task has one turn. The same again changes nothing; another in its place follows
-- what the first one followed, and the session goes on from there.
-- KEYS fixed, then
--   1 session
--   2 sessions          all of the crew, by the time at which they expire
-- ARGV
--   1 uid
--   2 inc
--   3 id
--   4 fence
--   5 name                of the session among the crew's
--   6 follows             the task of the turn that it follows; '': the newest
--   7 ttl                 for how long the session is kept from now on, in ms
--   8 most                turns that it keeps
--   9 body                what was asked and answered, as JSON
-- Answers gone | fenced | unknown | stale | ok
local session, sessions = KEYS[FIXED + 1], KEYS[FIXED + 2]
local uid, inc, id, fence, name, follows = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local ttl, most, body = tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9]
local bar = barred(uid, inc)
if bar then return bar end
local held = redis.call('HGET', HOLDERS, id)
if not held or string.find(held, inc .. FS .. fence .. FS, 1, true) ~= 1 then return 'stale' end

-- A turn (packed.Turn in Python): the number of the one before ('': none), its task, when, and what was said.
local TURN = '^(%d*)\31([^\31]*)\31%d+\31(.*)$'
local function turn(number)
  local packed = number and redis.call('HGET', session, 'turn:' .. number)
  if packed then return string.match(packed, TURN) end
end

local before, _, known = turn(redis.call('HGET', session, 'of:' .. id))
if known ~= body then
  if not known then before = redis.call('HGET', session, follows == '' and 'head' or 'of:' .. follows) or '' end
  local number = redis.call('HINCRBY', session, 'last', 1)
  redis.call('HSET', session, 'turn:' .. number, before .. FS .. id .. FS .. now .. FS .. body, 'of:' .. id, number,
    'head', number)
  local oldest = number - most
  local _, whose = turn(oldest)
  if whose then
    redis.call('HDEL', session, 'turn:' .. oldest)
    if redis.call('HGET', session, 'of:' .. whose) == int(oldest) then redis.call('HDEL', session, 'of:' .. whose) end
  end
end
redis.call('PEXPIRE', session, ttl)
redis.call('ZREMRANGEBYSCORE', sessions, '-inf', now_ms)
redis.call('ZADD', sessions, now_ms + ttl, name)
return 'ok'
