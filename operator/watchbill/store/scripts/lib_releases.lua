-- How a task leaves its holder and doesn't end by that.
-- uses holders limits

local function release(id, h)
  redis.call('XACK', STREAM[h.class], GROUP, h.entry)
  redis.call('XDEL', STREAM[h.class], h.entry)
  redis.call('HDEL', HOLDERS, id)
  if limits and limiting().vacate(h) and limiting().is_wanted(h.agent) then ring() end
end

-- Takes off an entry of what has ended, which nobody could find when it did.
local function drop_stray(id, h)
  release(id, h)
  if wish_of(id) then redis.call('HDEL', WISHES, id) end
end

-- Gives it to a consumer that everyone may take from, so that it keeps its place in the stream.
local function give_back(id, h)
  if not redis.call('XCLAIM', STREAM[h.class], GROUP, RETURNED, 0, h.entry, 'JUSTID')[1] then
    return drop_stray(id, h)      -- somebody deleted its entry
  end
  h.inc, h.started, h.known = RETURNED, '0', '0'
  hold(id, h)
  redis.call('ZADD', LEASES, 0, RETURNED)
  ring()
end
