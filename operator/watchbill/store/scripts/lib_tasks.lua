-- Work that comes in.
-- uses streams

-- What counts against maxQueued: all that hasn't ended, but steps that aren't ready.
local function present(on_streams)
  if redis.call('EXISTS', PARKED, PARKED_AGENT, DELAYED, PARKED_INTERRUPT) == 0 then return on_streams end
  return on_streams + redis.call('ZCARD', PARKED) + redis.call('ZCARD', PARKED_AGENT) + redis.call('ZCARD', DELAYED)
    + redis.call('ZCARD', PARKED_INTERRUPT)
end

-- What a submission that finds no room is answered, and counted as.
local function refuse()
  redis.call('HINCRBY', META, 'refused', 1)
  return { 'full' }
end

-- Tells whatever scales workers that this crew has work. At most every 200 ms, but where it must look `sooner` than it
-- knows of: it may never hear of the crew again before that is due.
local function wake(crew, sooner)
  local last = tonumber(redis.call('HGET', META, 'woken') or '0')
  if sooner or now_ms - last >= 200 or now_ms < last then
    redis.call('HSET', META, 'woken', now)
    redis.call('PUBLISH', 'wb:wake', crew)
  end
end

-- One more client waits for this task or run. Bounded: a client that finds no place polls.
local function subscribe(key, channel)
  if channel == '' then return end
  local known = redis.call('HGET', key, 'reply') or ''
  if #known < 4096 and not string.find(LS .. known .. LS, LS .. channel .. LS, 1, true) then
    redis.call('HSET', key, 'reply', known == '' and channel or known .. LS .. channel)
  end
end

-- Whose id a dedupe key stands for within its window; nil: nobody's. Keys outlive their crew: what a former crew of that
-- name was asked for isn't there any more.
local function first_of(dedupe_key, uid)
  local whose, id = string.match(redis.call('GET', dedupe_key) or '', '^([^\31]*)\31(.*)$')
  if whose == uid then return id end
end

local function keep_first(dedupe_key, uid, id, window)
  redis.call('SET', dedupe_key, uid .. FS .. id, 'PX', int(math.min(window, FAR)))
end

-- What was there already is acknowledged once more, and must be as safe as asked then, too. WAIT and WAITAOF answer only for
-- what their own connection has written, so it writes: nothing new, behind all that is there.
local function write_again(uid) redis.call('HSET', META, 'uid', uid) end

-- Whether an id that is there stands for other work. Who knows nothing of it (a record that was recovered) takes it for the same.
local function is_other(known, work) return known and known ~= '' and work ~= '' and known ~= work end

-- submitted | exists | conflict | other; writes the whole record. `values`: name, value, name, value, ...; `due` in ms, or nil.
-- The second answer is true where somebody must look sooner than they would.
local function add_task(task_key, id, class, agent, payload, work, reply, inputs, values, due)
  if redis.call('ZADD', IDS, 'NX', now_ms + FAR, id) == 0 then
    if redis.call('EXISTS', task_key) == 1 then
      if is_other(redis.call('HGET', task_key, 'work'), work) then return 'other' end
      if redis.call('HEXISTS', task_key, 'result') == 0 then subscribe(task_key, reply) end
      return 'exists'
    end
    if tonumber(redis.call('ZSCORE', IDS, id)) > now_ms then return 'conflict' end     -- a run's
    redis.call('ZADD', IDS, now_ms + FAR, id)       -- one that has expired
  end
  if due and due <= now_ms then due = nil end
  local entry, sooner = '', true
  if due then
    sooner = delay(id, class, agent, '1', due)
  elseif #payload > ALONG then
    entry = put(class, 'id', id, 'agent', agent)
  elseif inputs == '' then
    entry = put(class, 'id', id, 'agent', agent, 'payload', payload)
  else
    entry = put(class, 'id', id, 'agent', agent, 'payload', payload, 'inputs', inputs)
  end
  redis.call('HSET', task_key, 'state', due and 'delayed' or 'waiting', 'agent', agent, 'class', class, 'payload', payload,
    'submitted', now, 'inputs', inputs, 'entry', entry, 'work', work)
  if reply ~= '' then redis.call('HSET', task_key, 'reply', reply) end
  for i = 1, #values, 2 do redis.call('HSET', task_key, 'input:' .. values[i], values[i + 1]) end
  return 'submitted', sooner
end
