-- Claiming.
-- uses events holders streams leases letters limits gate

local DEAD_AT_ONCE = 100         -- dead incarnations that one claim looks at
local fresh_fence                -- of all that this claim takes
local discarded = 0              -- entries that can't be read, which this claim took off
local begin_left = 0             -- how many of the next entries begin at once
local rows, answered = {}, {}    -- what this claim takes: as it is answered, and as the same claim finds it again

-- Making a function costs each call, whether it uses it or not. What few calls use is made when it is used.

local malformed_made
local function malformed()
  if malformed_made then return malformed_made end

  -- UTF-8 without control characters; as strict as those who decode it: no surrogates, nothing overlong.
  local UTF8 = { '[\194-\223]', '\224[\160-\191]', '[\225-\236\238\239][\128-\191]', '\237[\128-\159]',
    '\240[\144-\191][\128-\191]', '[\241-\243][\128-\191][\128-\191]', '\244[\128-\143][\128-\191]' }
  local function is_utf8(s)
    if string.find(s, '%c') then return false end
    if not string.find(s, '[\128-\255]') then return true end
    for _, start in ipairs(UTF8) do s = string.gsub(s, start .. '[\128-\191]', 'x') end
    return not string.find(s, '[\128-\255]')
  end

  -- Takes an entry off the stream, and writes a dead letter with the beginning of what it carries.
  local function discard(reason, id, class, entry, fields)
    add_letter(reason, #id <= 512 and id or '', { 'class', class, 'entry', entry }, nil, fields)
    discarded = discarded + 1
    redis.call('XACK', STREAM[class], GROUP, entry)
    redis.call('XDEL', STREAM[class], entry)
    return false
  end

  malformed_made = { is_utf8 = is_utf8, discard = discard }
  return malformed_made
end

local function is_text(s) return not string.find(s, '[%c\128-\255]') or malformed().is_utf8(s) end

-- Takes one entry. `previous`: the consumer that held it, '' for a new one. False: it can't be read, and is gone; or it
-- waits for the limits of its agent.
local function take(inc, class, entry, fields, previous)
  local id, agent, attempt, payload, definition, inputs, given
  for i = 1, #fields, 2 do
    local name, value = fields[i], fields[i + 1]
    if name == 'id' then id = value elseif name == 'agent' then agent = value
    elseif name == 'payload' then payload = value elseif name == 'inputs' then inputs = value
    elseif name == 'def' then definition = value elseif name == 'given' then given = value
    elseif name == 'attempt' then attempt = #value < 10 and string.find(value, '^%d+$') and tonumber(value) or 0 end
  end
  -- One that begins with a slash would be a step's to some (names.split_step_id) and a task's to others.
  if not id or not agent or #id == 0 or #id > 512 or #agent == 0 or attempt == 0 or not is_text(id)
    or not is_text(agent) or string.sub(id, 1, 1) == '/' then
    local reason = 'malformed entry: it needs the fields id and agent, both text'
    return malformed().discard(reason, id or '', class, entry, fields)
  end
  local wish = wish_of(id)      -- it isn't to run: who takes it says how it ended
  if limits then
    if previous == LIMITED .. agent then previous = '' end
    agent = gate().admit(id, agent, class, entry, attempt, wish)
    if not agent then return false end
  end
  local begins = begin_left > 0 and payload ~= nil and not wish
  local made = attempt and int(attempt) or '1'
  local held_as = inc .. FS .. fresh_fence .. FS .. class .. FS .. entry
  local packed = pack_claimed(held_as, made, agent, begins)
  if redis.call('HSETNX', HOLDERS, id, packed) == 0 then
    local before, h = holder(id), unpack_holder(packed)
    if before.entry ~= entry or before.class ~= class then
      return malformed().discard('second entry of a task that is held under another', id, class, entry, fields)
    end
    h.attempt = int(tonumber(before.attempt) + (before.started ~= '0' and 1 or 0))   -- a start that came to nothing
    if before.known ~= '0' then h.known = '1' end
    hold(id, h)
    made = h.attempt
    if begins and before.known == '0' then count(agent, 1) end
  elseif begins then
    count(agent, 1)
  end
  if begins then begin_left = begin_left - 1 end
  answered[#answered + 1] = (previous ~= '' and '1' or '0') .. id
  local n = #rows
  rows[n + 1], rows[n + 2], rows[n + 3], rows[n + 4], rows[n + 5] = id, fresh_fence, made, agent, entry
  rows[n + 6], rows[n + 7], rows[n + 8] = class, previous, wish or (begins and 'begun' or 'held')
  rows[n + 9], rows[n + 10], rows[n + 11], rows[n + 12] = payload or '', definition or '', inputs or '', given or ''
  return true
end

local function read_new(inc, class, room)
  local n, before = 0, limits and gate().refused()
  local reply = redis.pcall('XREADGROUP', 'GROUP', GROUP, inc, 'COUNT', room, 'STREAMS', STREAM[class], '>')
  if reply and reply.err then       -- somebody else made the stream, or removed the group
    redis.call('XGROUP', 'CREATE', STREAM[class], GROUP, '0')
    reply = redis.call('XREADGROUP', 'GROUP', GROUP, inc, 'COUNT', room, 'STREAMS', STREAM[class], '>')
  end
  if reply then
    for _, e in ipairs(reply[1][2]) do
      if take(inc, class, e[1], e[2], '') then n = n + 1 end
    end
  end
  -- What waits for limits fills no slot.
  if limits and n < room and gate().may_go_on(before) then return n + read_new(inc, class, room - n) end
  return n
end

-- What dead incarnations held, and whose turn it is where several classes wait.
local others_made
local function others()
  if others_made then return others_made end

  -- Refuses whatever an incarnation sends, for a day from now on. Whether that is new.
  local function fence(inc)
    if redis.call('ZADD', FENCED, 'NX', now_ms, inc) == 0 then return false end
    redis.call('ZREMRANGEBYSCORE', FENCED, '-inf', now_ms - DAY * 1000)
    redis.call('EXPIRE', FENCED, DAY)
    redis.call('HDEL', CLAIMS, inc)
    return true
  end

  -- Removes the holder of an entry that somebody deleted meanwhile.
  local function remove_entry(class, entry)
    redis.call('XACK', STREAM[class], GROUP, entry)
    local all = redis.call('HGETALL', HOLDERS)
    for i = 1, #all, 2 do
      local h = holder(all[i])
      if h.class == class and h.entry == entry then
        redis.call('HDEL', HOLDERS, all[i])
        redis.call('HDEL', WISHES, all[i])
        if limits then limiting().vacate(h) end
        if h.known ~= '0' then count(h.agent, -1) end
      end
    end
  end

  -- The entries that a consumer holds in one class. There may be no such stream or group: nobody has put anything
  -- there.
  local function pending_of(class, consumer, most)
    local pending = redis.pcall('XPENDING', STREAM[class], GROUP, '-', '+', most, consumer)
    return pending.err and {} or pending
  end

  -- Takes over what dead incarnations held, in one class. Returns how many were taken.
  local function take_over(inc, class, dead, room)
    local n = 0
    for _, gone in ipairs(dead) do
      local first       -- the oldest that the pass before found
      while n < room do
        local pending = pending_of(class, gone, room - n)
        if #pending == 0 or pending[1][1] == first then break end     -- it went back to where it waits for its limits
        first = pending[1][1]
        for _, p in ipairs(pending) do
          local claimed = redis.call('XCLAIM', STREAM[class], GROUP, inc, 0, p[1])
          if claimed[1] and take(inc, class, claimed[1][1], claimed[1][2], gone) then
            n = n + 1
          elseif not claimed[1] then
            remove_entry(class, p[1])
          end
        end
      end
    end
    return n
  end

  -- The class, below CRITICAL, with the oldest entry that may be taken; and whose it was: nil for one that is new.
  local function oldest(filled, dead)
    local best, whose, best_ms, best_seq
    local function consider(class, entry, gone)
      local ms, seq = string.match(entry, '(%d+)-(%d+)')
      ms, seq = tonumber(ms), tonumber(seq)
      if not best or ms < best_ms or (ms == best_ms and seq < best_seq) then
        best, whose, best_ms, best_seq = class, gone, ms, seq
      end
    end
    for _, class in ipairs(filled) do
      if class ~= '1' then
        for _, gone in ipairs(dead) do
          local pending = pending_of(class, gone, 1)
          if pending[1] then consider(class, pending[1][1], gone) end
        end
        local last = '0-0'
        for _, g in ipairs(redis.call('XINFO', 'GROUPS', STREAM[class])) do
          local name, delivered
          for i = 1, #g, 2 do
            if g[i] == 'name' then name = g[i + 1] elseif g[i] == 'last-delivered-id' then delivered = g[i + 1] end
          end
          if name == GROUP then last = delivered end
        end
        local head = redis.call('XRANGE', STREAM[class], '(' .. last, '+', 'COUNT', 1)
        if head[1] then consider(class, head[1][1], nil) end
      end
    end
    return best, whose
  end

  local function remove_if_empty(gone)
    for _, c in ipairs(CLASSES) do
      if #pending_of(c, gone, 1) > 0 then return false end
    end
    -- Where there is one.
    for _, c in ipairs(CLASSES) do redis.pcall('XGROUP', 'DELCONSUMER', STREAM[c], GROUP, gone) end
    redis.call('ZREM', LEASES, gone)
    return true
  end

  -- Takes what has waited for the limits of its agent and may start now, in one class, the oldest first.
  local function take_limited(inc, class, room)
    local n = 0
    for _, found in ipairs(gate().ready(class, room)) do
      local claimed = redis.call('XCLAIM', STREAM[class], GROUP, inc, 0, found.entry)[1]
      if not claimed then
        remove_entry(class, found.entry)
      elseif take(inc, class, claimed[1], claimed[2], found.consumer) then
        n = n + 1
      end
    end
    return n
  end

  others_made = { fence = fence, take_over = take_over, oldest = oldest, remove_if_empty = remove_if_empty,
    take_limited = take_limited }
  return others_made
end

-- Whoever asks again gets the same, without payloads; whose a task was before isn't known any more.
local function answer_again(packed, inc)
  for _, item in ipairs(split(packed, FS)) do
    local id, previous = string.sub(item, 2), string.sub(item, 1, 1) == '1' and RETURNED or ''
    local h = holder(id)
    if h and h.inc == inc then
      local state = wish_of(id) or (h.started ~= '0' and 'begun' or 'held')
      for _, value in ipairs({ id, h.fence, h.attempt, h.agent, h.entry, h.class, previous, state, '', '', '', '' }) do
        rows[#rows + 1] = value
      end
    end
  end
end

-- Takes as many entries as there is room for, the most urgent first: those of dead incarnations, then those that have
-- waited for the limits of their agents, then new ones.
-- Returns the room that is left, and whether somebody else should look.
local function pick(inc, slots, dead, picks)
  local room, filled, waiting, total = slots, {}, lengths()
  for _, c in ipairs(CLASSES) do
    if waiting[c] > 0 then filled[#filled + 1] = c end
  end
  -- One pick in 16 goes to the oldest head below CRITICAL, so that no other class starves. CRITICAL comes first even
  -- then: where it leaves no room, the pick stays owed.
  local owed, tried = #filled > 1 and picks + room >= 16, false
  for _, c in ipairs(CLASSES) do      -- not only `filled`: what a dead worker holds may have been deleted
    if room > 0 and #dead > 0 then room = room - others().take_over(inc, c, dead, room) end
    if limits and room > 0 and waiting[c] > 0 then room = room - others().take_limited(inc, c, room) end
    if room > 0 and waiting[c] > 0 then room = room - read_new(inc, c, room) end
    if owed and room > 0 and c == '1' then
      tried = true
      local whoever = dead
      if limits then
        whoever = gate().startable()
        for _, gone in ipairs(dead) do whoever[#whoever + 1] = gone end
      end
      local class, whose = others().oldest(filled, whoever)
      if class and whose then
        room = room - others().take_over(inc, class, { whose }, 1)
      elseif class then
        room = room - read_new(inc, class, 1)
      end
    end
  end
  if #filled > 1 then
    local made = picks + slots - room
    redis.call('HSET', META, 'picks', tried and made % 16 or math.min(made, 15))
  end
  if limits and total > 0 and #gate().startable() > 0 then return true end
  return total > discarded and total - discarded > redis.call('HLEN', HOLDERS)
end

-- Renews the incarnation's lease and gives it entries. (Those begin at once whose payload travels with them: the others
-- begin with `start`, which gives it.)
-- ARGV
--   3 number              of the claim: the same number gets the same entries
--   4 slots               entries, at most
--   5 begin               how many of them begin at once
--   6 lease_ms
--   7 take_over           1: from incarnations whose leases ran out, too
--   8 highest             of the fences that the worker was given
-- A suspended crew's tasks are not claimed, nor taken over; what is due comes onto its stream, and waits there.
-- Answers {'ok', look again in ms, now in ms, current definition, rows, is the worker to drain?}
--   rows, one behind the other: id, fence, attempt, agent, entry, class, previous, state, payload, definition, inputs,
--     given
--   previous: '' (it is new) | returned (it was handed back, or that isn't known any more) | the dead incarnation that
--     held it
--   state: held | begun | cancel | interrupt (somebody wants it to stop: it isn't to run)
local function claim(inc)
  local number, slots, begin, lease_ms = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
  local take_over, highest = ARGV[7] == '1', tonumber(ARGV[8])
  begin_left = begin
  -- Three: it may be among them, and what was handed back.
  local leases, somebody_gone = redis.call('ZRANGE', LEASES, 0, 2, 'WITHSCORES'), false
  for i = 1, #leases, 2 do
    if leases[i] ~= inc and tonumber(leases[i + 1]) <= now_ms then somebody_gone = true end
  end
  -- The caller sees to it, too, that it takes nothing over then; but it knows of no clock but its own, and what it
  -- asked before an outage may be done only after it.
  if renew_lease(inc, lease_ms, not somebody_gone) then take_over = false end

  if last_claim then
    local cut = string.find(last_claim, FS, 1, true)
    local last = tonumber(string.sub(last_claim, 1, cut - 1))
    if number == last then answer_again(string.sub(last_claim, cut + 1), inc) end
    -- a smaller one is a late copy, which nobody waits for
    if number <= last then return { 'ok', 0, now, redis.call('HGET', META, 'def') or '', rows, 0 } end
  end

  local drain = 'drain:' .. (string.match(inc, '^(.*)%.[^.]*$') or inc)
  local known = redis.call('HMGET', META, 'def', drain, 'picks', 'fence', 'suspended')
  local definition, draining, picks, fence = known[1], known[2], tonumber(known[3] or '0'), tonumber(known[4] or '0')
  local suspended = known[5] and not is_of_deliveries()     -- deliveries go on
  local due = next_due()
  -- Above all that were given before, by whatever clock: the server's may go back, and what held a task may be
  -- lost. A server that took another's place may have missed the last of them, and hears of those from the
  -- workers.
  fresh_fence = int(math.max(now_us, fence + 1, highest + 1))
  if suspended then
    if due and due <= now_ms then
      move_due(100)
      due = next_due()
    end
  elseif slots > 0 and draining then
    ring()      -- it may have heard the bell in the place of somebody who is to claim
  elseif slots > 0 then
    local dead, more = {}, false
    if due and due <= now_ms then
      more = move_due(100) == 100
      due = next_due()
    end
    if somebody_gone then
      dead = redis.call('ZRANGEBYSCORE', LEASES, '-inf', take_over and now_ms or 0, 'LIMIT', 0, DEAD_AT_ONCE)
      more = more or #dead == DEAD_AT_ONCE
    end
    for _, gone in ipairs(dead) do
      if gone ~= RETURNED and others().fence(gone) then vanished(gone) end
    end
    local is_left = pick(inc, slots, dead, picks)
    for _, gone in ipairs(dead) do
      if not others().remove_if_empty(gone) then more = true end
    end
    if more or is_left then ring() end
  end
  redis.call('HSET', CLAIMS, inc, number .. FS .. table.concat(answered, FS))
  if #answered > 0 then redis.call('HSET', META, 'fence', fresh_fence) end

  local again = 2000
  if due then      -- any idle worker must look: others may be busy; a delivery may be another second late
    local longest = is_of_deliveries() and again or 1000
    again = math.max(math.min(due - now_ms, longest), 1)
  end
  if limits then again = math.min(again, limiting().soonest_ms() or again) end
  if suspended then return { 'ok', again, now, definition or '', rows, draining and 1 or 0 } end
  if somebody_gone then leases = redis.call('ZRANGEBYSCORE', LEASES, '(0', '+inf', 'WITHSCORES', 'LIMIT', 0, 2) end
  for i = 1, #leases, 2 do
    if leases[i] ~= inc then
      again = math.min(again, math.max(tonumber(leases[i + 1]) - now_ms + 1, take_over and 50 or 500))
    end
  end
  return { 'ok', again, now, definition or '', rows, draining and 1 or 0 }
end
