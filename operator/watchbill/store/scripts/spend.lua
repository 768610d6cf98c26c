#!lua flags=allow-oom
-- uses nothing
-- Reserves for a request to a model what it may cost at most, in all budgets that bind it, or in none; unless the
-- model's provider has asked for a pause. Settles what requests that have ended did cost. A reservation is spent from
-- the first moment: settling lowers it, and who dies before that has spent it. A model's limit lets requests go at a
-- rate, each at its turn: `rate:` and `tokens:` of a model say how full its limits are (a GCRA), and `line:` when the
-- next one has its turn that has to wait. An agent whose request can't go soon gets no more work of its roles until
-- then (`away:` in meta, lib_limits.lua), while others can do it, unless what refuses it is the budget of a heartbeat,
-- of a run or of a task: that doesn't bind the agent's other work. A counter is {window, start, end, tokens, money, of
-- these by requests under way: tokens, money; when the last one was reserved, when one was refused for good (0: none
-- since one was reserved), and what was allowed then} (Counter in store/budgets.py; times in ms).
-- KEYS fixed, then
--   1 spending            the crew's counters
--   2 reserved            where the reservation is kept
--   3 record              of the task or run, with the counters of its own budgets
--   then for each settlement its `reserved` and its `record`
-- ARGV
--   1 uid
--   2 definition          whose budgets these are; '': settle only
--   3 m                   settlements, each with
--     call                the id of the request
--     tokens
--     money               that it has cost
--   p                     models whose provider asks for a pause, each with
--     model
--     ms                  for so long
--   then of the request
--     call
--     model
--     tokens
--     money               that it may cost
--     unpriced            1: the price of its model is not known
--     every               us between two requests to its model; '': there is no limit of these
--     burst               requests that may go at once
--     each                us for each token; '': there is no limit of these
--     capacity            tokens that may go at once
--     turn                field of the record that keeps when the request has its turn
--     patience            ms for which it may wait once it has that
--     agent               that makes it; '': it has no roles
--     first               model that the agent asks before this one, which stands in for it; '': none
--     in_batch            1: it goes by a batch
--   and for each budget
--     where               crew | beat (of a heartbeat) | record (of the task or run, which has the counter)
--     field               of the counter
--     window              its name; another one begins anew
--     start
--     end                 of the window, in ms
--     most tokens         '': any number
--     most money
-- Answers
--   {'gone'}              the crew is
--   {'redefined'}         the crew has another definition
--   {'moved', now}        a window is not the one of now, in ms
--   {'pause', ms}         the model's provider has asked for a pause, which lasts for so long
--   {'lost'}              the task or run has no record any more
--   {'later', ms}         the model's limit gives it a turn after so long
--   {'full', ...}         for each budget without room: its position, 1: not only for requests under way, tokens, money
--   {'ok', ms}            it may be made after so long
local LONGEST = 3600000   -- ms; no pause is longer, so one that seems to be is by a clock that has gone back since
local LATE = 2e6          -- us; a task that was set aside comes at most so late to its turn
local STALE = 600000      -- ms; a request that has been under way for longer is one whose worker died
local uid, definition, m = ARGV[1], ARGV[2], tonumber(ARGV[3])
local spending, reserved, record = KEYS[FIXED + 1], KEYS[FIXED + 2], KEYS[FIXED + 3]
local known = redis.call('HMGET', META, 'uid', 'def')
if known[1] ~= uid then return { 'gone' } end

local function read(key, field)
  local packed = redis.call('HGET', key, field)
  if not packed then return nil end
  local c = split(packed, FS)
  return { window = c[1], start = tonumber(c[2]), stop = tonumber(c[3]), tokens = tonumber(c[4]),
    money = tonumber(c[5]), held_tokens = tonumber(c[6]), held_money = tonumber(c[7]), last = tonumber(c[8]),
    refused = tonumber(c[9]), allowed = c[10] }
end

local function write(key, field, c)
  redis.call('HSET', key, field, table.concat({ c.window, int(c.start), int(c.stop), int(c.tokens), int(c.money),
    int(c.held_tokens), int(c.held_money), int(c.last), int(c.refused), c.allowed }, FS))
end

-- 1. What has ended is settled: once, because its reservation goes with that.
local function settle(i)
  local at, key = 1 + 3 * i, FIXED + 2 + 2 * i
  local call, tokens, money = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local kept_in, own = KEYS[key], KEYS[key + 1]
  local packed = redis.call('HGET', kept_in, call)
  if not packed then return end
  redis.call('HDEL', kept_in, call)
  local parts = split(packed, LS)
  local held_tokens, held_money = string.match(parts[1], '^(%d+) (%d+)')
  held_tokens, held_money = tonumber(held_tokens), tonumber(held_money)
  for j = 2, #parts do
    local where, field, window, start = unpack(split(parts[j], FS))
    local home = where == 'record' and own or spending
    local c = where ~= 'rate' and read(home, field)
    if where == 'rate' then
      local us, at_us, each = string.match(redis.call('HGET', spending, 'tokens:' .. field) or '', '^(%d+) (%d+) (.+)$')
      us = us and int(math.max(us - (held_tokens - tokens) * each, 0))
      if us then redis.call('HSET', spending, 'tokens:' .. field, us .. ' ' .. at_us .. ' ' .. each) end
    elseif c and c.window == window and c.start == tonumber(start) then
      c.tokens, c.money = math.max(c.tokens - held_tokens + tokens, 0), math.max(c.money - held_money + money, 0)
      c.held_tokens = math.max(c.held_tokens - held_tokens, 0)
      c.held_money = math.max(c.held_money - held_money, 0)
      write(home, field, c)
    end
  end
end

for i = 1, m do settle(i) end

-- When the pause of a model ends, in ms; 0: there is none.
local function paused_until(model)
  local ends = tonumber(redis.call('HGET', spending, 'pause:' .. model) or '0')
  return ends > now_ms and ends <= now_ms + LONGEST and ends or 0
end

local at = 4 + 3 * m
local p = tonumber(ARGV[at])
for i = 1, p do
  local model, ms = ARGV[at + 2 * i - 1], math.min(tonumber(ARGV[at + 2 * i]), LONGEST)
  if paused_until(model) < now_ms + ms then redis.call('HSET', spending, 'pause:' .. model, int(now_ms + ms)) end
end
if definition == '' then return { 'ok', 0 } end

-- 2. Is there room for the request? Of one that was reserved already, there was.
at = at + 2 * p + 1
local call, model, unpriced = ARGV[at], ARGV[at + 1], ARGV[at + 4]
local tokens, money = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
if known[2] ~= definition then return { 'redefined' } end
local made = redis.call('HGET', reserved, call)
if made then
  local goes_us = tonumber(string.match(made, '^%d+ %d+ (%d+)') or '0')
  return { 'ok', math.max(math.ceil((goes_us - now_us) / 1000), 0) }
end

local function counter_of(home, field, window, start, stop)
  local c = read(home, field)
  -- A window that began later than this one was counted by a clock that has gone back since.
  if c and c.window == window and c.start >= start then return c end
  return { window = window, start = start, stop = stop, tokens = 0, money = 0, held_tokens = 0, held_money = 0,
    last = 0, refused = 0, allowed = '/' }
end

local every, burst, each, capacity = tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6]), tonumber(ARGV[at + 7]),
  tonumber(ARGV[at + 8])
local turn, patience, agent = ARGV[at + 9], tonumber(ARGV[at + 10]), ARGV[at + 11]
local first, in_batch = ARGV[at + 12], ARGV[at + 13] == '1'

-- Until when the agent is away, in ms (0: it isn't known to be), and whether that is so by a larger request than this
-- one, which says nothing of such: the agent would get the task of that again, and give it back, for ever.
local function kept_away()
  local kept = redis.call('HGET', META, 'away:' .. agent) or ''
  local until_ms, since_ms, by, sizes = string.match(kept, '^(%d+) (%d+) (%S*)(.*)$')
  local most_tokens, most_money = string.match(sizes or '', '^ (%d+) (%d+)$')      -- the release before kept none
  local is_larger = most_tokens and (tokens < tonumber(most_tokens) or money < tonumber(most_money))
  local holds = is_larger and by == definition and tonumber(since_ms) <= now_ms
  return tonumber(until_ms or '0'), holds
end

-- The agent can do no other work of its kind before that, in ms; or before the model may be asked that it asks first.
-- `is_any`: whatever the size of the request.
local function keep_away(until_ms, is_any)
  if agent == '' then return end
  local kept_ms, is_by_larger = kept_away()
  if first ~= '' then until_ms = math.min(until_ms, math.max(kept_ms, paused_until(first))) end
  if until_ms - now_ms <= patience or is_by_larger and kept_ms >= until_ms then return end
  local size = is_any and '' or ' ' .. int(tokens) .. ' ' .. int(money)
  redis.call('HSET', META, 'away:' .. agent, int(until_ms) .. ' ' .. now .. ' ' .. definition .. size)
end

local pause_ends = paused_until(model)
if pause_ends > 0 then
  keep_away(pause_ends, true)
  return { 'pause', int(pause_ends - now_ms) }
end
local limit = table.concat(ARGV, '/', at + 5, at + 8)
local counters, full, full_until = {}, { 'full' }, 0
for i = at + 14, #ARGV, 7 do
  local where, field, window, start, stop = ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3]),
    tonumber(ARGV[i + 4])
  local most_tokens, most_money = tonumber(ARGV[i + 5]) or math.huge, tonumber(ARGV[i + 6]) or math.huge
  if now_ms < start or now_ms >= stop then return { 'moved', now } end
  if where == 'record' and redis.call('EXISTS', record) == 0 then return { 'lost' } end
  local c = counter_of(where == 'record' and record or spending, field, window, start, stop)
  c.where, c.field = where, field
  counters[#counters + 1] = c
  if c.tokens + tokens > most_tokens or c.money + money > most_money then
    local under_way = now_ms - c.last < STALE
    local fits = under_way and c.tokens - c.held_tokens + tokens <= most_tokens
      and c.money - c.held_money + money <= most_money
    for _, value in ipairs({ #counters, fits and 0 or 1, int(c.tokens), int(c.money) }) do full[#full + 1] = value end
    if not fits then
      local fits_at_all = where == 'crew' and tokens <= most_tokens and money <= most_money
      if fits_at_all then full_until = math.max(full_until, stop) end
      c.refused, c.allowed = now_ms, ARGV[i + 5] .. '/' .. ARGV[i + 6]
      write(where == 'record' and record or spending, field, c)
    end
  end
end
if unpriced == '1' then redis.call('HSET', spending, 'unpriced:' .. model, now) end
if #full > 1 then
  keep_away(full_until)
  return full
end

-- 3. Does the limit of its model let it go? What goes is counted; what has to wait has its turn behind all that do.

-- For how long what went before fills a limit, in us. Kept is that, as of when, and us for each then.
local function book(field, us, each_us)
  redis.call('HSET', spending, field, int(us) .. ' ' .. int(now_us) .. ' ' .. each_us)
end

-- Returns that, and for how long the limit has been empty, in us.
local function ahead(field, each_us)
  local us, at_us, each_then = string.match(redis.call('HGET', spending, field) or '', '^(%d+) (%d+) (.+)$')
  if not us then return 0, math.huge end
  us, at_us = us * each_us / each_then, tonumber(at_us)
  if at_us > now_us then book(field, us, each_us) end      -- the server's clock has gone back since
  us = us - math.max(now_us - at_us, 0)
  return math.max(us, 0), math.max(-us, 0)
end

-- Keeps a time to come, in us, as of when, and by which limit: of another one it says nothing.
local function keep_time(key, field, us)
  redis.call('HSET', key, field, int(us) .. ' ' .. int(now_us) .. ' ' .. limit)
end

local function kept_time(key, field)
  local us, at_us, of = string.match(redis.call('HGET', key, field) or '', '^(%d+) (%d+) (.+)$')
  if of ~= limit then return 0 end
  local back_us = at_us - now_us
  if back_us <= 0 then return tonumber(us) end
  keep_time(key, field, us - back_us)      -- the server's clock has gone back since
  return us - back_us
end

-- In how many us the request goes; or nil, and after how many it has its turn.
local function queue_for_model()
  local of_requests, of_tokens, wait = 0, 0, 0
  local spacing, requests_empty, tokens_empty = math.max(every or 0, (each or 0) * tokens), math.huge, math.huge
  if every then
    of_requests, requests_empty = ahead('rate:' .. model, every)
    wait = math.max(wait, of_requests - (burst - 1) * every)
  end
  if each then
    local most = math.max(capacity, tokens)      -- what is more than all goes when nothing else does
    of_tokens, tokens_empty = ahead('tokens:' .. model, each)
    wait = math.max(wait, of_tokens + (tokens - most) * each)
  end
  local own_us = kept_time(record, turn)
  local has_turn = own_us > 0 and own_us <= now_us
  if wait > 0 and own_us > now_us then return nil, own_us - now_us end
  if wait > (has_turn and patience * 1000 or 0) then
    own_us = math.max(now_us + wait, kept_time(spending, 'line:' .. model))
    keep_time(spending, 'line:' .. model, own_us + spacing)
    keep_time(record, turn, own_us)
    return nil, own_us - now_us
  end
  redis.call('HDEL', record, turn)
  -- Nobody came to the turns before, so those who had them are gone.
  if math.min(requests_empty, tokens_empty) > math.max(2 * spacing, LATE) then
    redis.call('HDEL', spending, 'line:' .. model)
  end
  if every then book('rate:' .. model, math.max(of_requests, wait) + every, every) end
  if each then book('tokens:' .. model, math.max(of_tokens, wait) + tokens * each, each) end
  return wait
end

local goes_us = now_us
if every or each then
  if redis.call('EXISTS', record) == 0 then return { 'lost' } end
  local wait, later = queue_for_model()
  if not wait then
    keep_away(math.ceil((now_us + later) / 1000))      -- the same for each agent that this turn keeps away
    return { 'later', math.ceil(later / 1000) }
  end
  goes_us = now_us + wait
end

-- 4. It is spent. That one goes by a batch, cheaper and whatever the provider wants, says nothing of others.
if agent ~= '' and not in_batch then
  local kept_ms, is_by_larger = kept_away()
  if kept_ms > 0 and not is_by_larger then redis.call('HDEL', META, 'away:' .. agent) end
end
local kept = { int(tokens) .. ' ' .. int(money) .. ' ' .. int(goes_us) }
for _, c in ipairs(counters) do
  c.tokens, c.money, c.last = c.tokens + tokens, c.money + money, now_ms
  c.refused = 0
  c.held_tokens, c.held_money = c.held_tokens + tokens, c.held_money + money
  write(c.where == 'record' and record or spending, c.field, c)
  kept[#kept + 1] = table.concat({ c.where, c.field, c.window, int(c.start) }, FS)
end
if each then kept[#kept + 1] = 'rate' .. FS .. model .. FS .. '-' .. FS .. '-' end
if #kept > 1 or every then
  redis.call('HSET', reserved, call, table.concat(kept, LS))
  redis.call('EXPIRE', reserved, DAY)
end
return { 'ok', math.ceil((goes_us - now_us) / 1000) }
