#!lua flags=allow-oom
-- uses events limits counts
-- Ready work makes no progress: nobody is at work, or no worker can run its agent. Asks for help on the feeds, at
-- growing intervals for as long as the oldest of that work stays the same: once for each, whoever calls and however
-- often.
-- KEYS fixed, then
--   1 agent_events        of `agent`
--   2 run_events          of the run of `id`
-- ARGV
--   1 uid
--   2 id                  of the oldest of that work, as far as the caller knows; '': it knows of none
--   3 agent
--   4 run_id              of `id`; '': it is no step
--   5 ...                 intervals, in ms: until the first request, then to the next; the last one stays
-- Answers
--   {'gone'}
--   {'none'}              there is no such work
--   {'other', id, agent}  this is the oldest
--   {'ok', ms}            nothing is to be done for so long
local uid, id, agent, run_id = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local agent_events, run_events = KEYS[FIXED + 1], KEYS[FIXED + 2]
local intervals = {}
for i = 5, #ARGV do intervals[i - 4] = tonumber(ARGV[i]) end
local meta = redis.call('HMGET', META, 'uid', 'suspended', 'stuck', 'limits')
local suspended, stuck = meta[2], meta[3]
if meta[1] ~= uid then return { 'gone' } end

local function none()
  if stuck then redis.call('HDEL', META, 'stuck') end
  return { 'none' }
end
if suspended then return none() end     -- somebody wants it so
heed(meta[4])

-- How many entries wait for somebody to be at work.
local workers = redis.call('ZCOUNT', LEASES, '(' .. now, '+inf')
local waiting, running = 0, 0
local classes = count_classes()
for _, of in pairs(classes) do waiting, running = waiting + of.waiting, running + of.running end
if workers == 0 then
  waiting = waiting + running     -- nobody takes over what the dead hold
elseif running > 0 then
  waiting = 0
end
local parked = redis.call('ZCARD', PARKED_AGENT)
if waiting + parked == 0 then return none() end

-- The oldest entry of a class that waits for nothing but a worker; nil: there is none.
local function oldest_of(class)
  local stream, of = STREAM[class], classes[class]
  if not limits then return redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1] end
  if of.waiting + of.running == 0 then return nil end
  local found, found_ms, found_seq = nil, math.huge, math.huge
  local function consider(id)
    local ms, seq = string.match(id, '(%d+)-(%d+)')
    ms, seq = tonumber(ms), tonumber(seq)
    if ms < found_ms or ms == found_ms and seq < found_seq then found, found_ms, found_seq = id, ms, seq end
  end
  for _, consumer in ipairs(redis.pcall('XPENDING', stream, GROUP)[4] or {}) do
    local name = consumer[1]
    local one = is_limited(name) and limiting().of(string.sub(name, #LIMITED + 1))
    if not one or limiting().room(one) > 0 then
      local first = redis.call('XPENDING', stream, GROUP, '-', '+', 1, name)[1]
      if first then consider(first[1]) end
    end
  end
  local new = redis.call('XRANGE', stream, '(' .. of.last, '+', 'COUNT', 1)[1]
  if new then consider(new[1]) end
  return found and redis.call('XRANGE', stream, found, found)[1]
end

-- The oldest of it.
local oldest_id, oldest_agent, oldest_ms = '', '', math.huge
local first = redis.call('ZRANGE', PARKED_AGENT, 0, 0, 'WITHSCORES')
if first[1] then
  oldest_agent, oldest_id = string.match(first[1], '^([^\31]*)\31[^\31]*\31[^\31]*\31(.*)$')
  oldest_ms = tonumber(first[2])
end
local is_parked = true
for _, class in ipairs(CLASSES) do
  local entry = waiting > 0 and oldest_of(class)
  local fields, ms = by_name(entry and entry[2] or {}), entry and tonumber(string.match(entry[1], '^%d+'))
  if fields['id'] and fields['agent'] and ms < oldest_ms then
    oldest_id, oldest_agent, oldest_ms, is_parked = fields['id'], fields['agent'], ms, false
  end
end
if oldest_id == '' then return none() end     -- entries that bring no task, and which the next claim takes off
if oldest_id ~= id then return { 'other', oldest_id, oldest_agent } end

-- Since when it is the oldest, how often help was asked for since then, and when it is to be asked for next.
local since, times, due, whose = string.match(stuck or '', '^(%d+) (%d+) (%d+) (.*)$')
since, times, due = tonumber(since), tonumber(times), tonumber(due)
if whose ~= id or since > now_ms then since, times, due = now_ms, 0, now_ms + intervals[1] end
if now_ms >= due then
  times = times + 1
  due = now_ms + intervals[math.min(times + 1, #intervals)]
  local seconds = math.floor((now_ms - since) / 1000)
  local long = seconds < 60 and seconds .. ' s' or math.floor(seconds / 60) .. ' min'
  local why = 'no worker is there'
  if is_parked then
    local role = role_of(agent)
    why = role and 'no agent has role ' .. role or 'no worker can run agent ' .. agent
  elseif workers > 0 then
    why = 'none of the workers (' .. workers .. ') takes one'
  end
  local item = { id = id, run_id = run_id ~= '' and run_id, agent_events = agent_events,
    run_events = run_id ~= '' and run_events }
  item_event(item, 'mission_help_needed', agent, 'none of the ready tasks (' .. waiting + parked .. ') has begun for '
    .. long .. ', and this is the oldest: ' .. why)
end
redis.call('HSET', META, 'stuck', int(since) .. ' ' .. times .. ' ' .. int(due) .. ' ' .. id)
return { 'ok', due - now_ms }
