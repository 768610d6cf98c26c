-- Work that comes in.
-- uses streams

-- What counts against maxQueued: all that hasn't ended, but steps that aren't ready.
local function present(on_streams)
  if redis.call('EXISTS', PARKED, PARKED_AGENT, DELAYED, PARKED_INTERRUPT) == 0 then return on_streams end
  return on_streams + redis.call('ZCARD', PARKED) + redis.call('ZCARD', PARKED_AGENT) + redis.call('ZCARD', DELAYED)
    + redis.call('ZCARD', PARKED_INTERRUPT)
end

-- The answer to a submission that finds no room, which is counted.
local function refuse()
  redis.call('HINCRBY', META, 'refused', 1)
  return { 'full' }
end

-- One more client waits for this task or run. They are bounded: a client that finds no place polls.
local function subscribe(key, channel)
  if channel == '' then return end
  local known = redis.call('HGET', key, 'reply') or ''
  if #known < 4096 and not string.find(LS .. known .. LS, LS .. channel .. LS, 1, true) then
    redis.call('HSET', key, 'reply', known == '' and channel or known .. LS .. channel)
  end
end

-- The id that a dedupe key stands for within its window; nil where there is none. Keys outlive their crew: what a
-- former crew of that name was asked for isn't there any more.
local function first_of(dedupe_key, uid)
  local whose, id = string.match(redis.call('GET', dedupe_key) or '', '^([^\31]*)\31(.*)$')
  if whose == uid then return id end
end

local function set_dedupe(dedupe_key, uid, id, window)
  redis.call('SET', dedupe_key, uid .. FS .. id, 'PX', int(math.min(window, FAR)))
end

-- What is there already is acknowledged once more, and must be as safe as asked then, too. WAIT and WAITAOF answer only
-- for what their own connection has written, so it writes: nothing new, behind all that is there.
local function write_again(uid) redis.call('HSET', META, 'uid', uid) end

-- Whether an id that is there stands for other work. A record that knows nothing of its work was recovered, and
-- stands for the same.
local function is_other(known, work) return known and known ~= '' and work ~= '' and known ~= work end

-- Adds the task whose arguments begin at `at`, as submit.lua has them, with its whole record.
-- Returns submitted | exists | conflict | other; and whether somebody must look sooner than they would.
local function add_task(task, at, reply)
  local id, class, agent, payload, work = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local due, deliver, inputs, n_inputs = tonumber(ARGV[at + 5]), ARGV[at + 7], ARGV[at + 8], tonumber(ARGV[at + 9])
  if redis.call('ZADD', IDS, 'NX', now_ms + FAR, id) == 0 then
    if redis.call('EXISTS', task) == 1 then
      if is_other(redis.call('HGET', task, 'work'), work) then return 'other' end
      if redis.call('HEXISTS', task, 'result') == 0 then subscribe(task, reply) end
      return 'exists'
    end
    if tonumber(redis.call('ZSCORE', IDS, id)) > now_ms then return 'conflict' end     -- a run's
    redis.call('ZADD', IDS, now_ms + FAR, id)       -- one that has expired
  end
  local entry, state, sooner = '', 'waiting', true
  if due > now_ms then
    state, sooner = 'delayed', delay(id, class, agent, '1', due)
  elseif #payload > ALONG then
    entry = put(class, 'id', id, 'agent', agent)
  elseif inputs == '' then
    entry = put(class, 'id', id, 'agent', agent, 'payload', payload)
  else
    entry = put(class, 'id', id, 'agent', agent, 'payload', payload, 'inputs', inputs)
  end
  redis.call('HSET', task, 'state', state, 'agent', agent, 'class', class, 'payload', payload, 'submitted', now,
    'inputs', inputs, 'entry', entry, 'work', work)
  if reply ~= '' then redis.call('HSET', task, 'reply', reply) end
  if deliver ~= '' then redis.call('HSET', task, 'deliver', deliver) end
  for i = at + 10, at + 8 + 2 * n_inputs, 2 do
    local name, value = ARGV[i], ARGV[i + 1]
    redis.call('HSET', task, 'input:' .. name, value)
  end
  return 'submitted', sooner
end
