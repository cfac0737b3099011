-- entries(session) -> {{rid, field, value ...} ...} in the order in which they were made; reads only
-- s:<session> list; r:<rid> hash
local rows = {}
for _, rid in ipairs(redis.call('LRANGE', P .. 's:' .. ARGV[1], 0, -1)) do
  local row = redis.call('HGETALL', reservation_key(rid))
  if #row > 0 then
    table.insert(row, 1, rid)
    rows[#rows + 1] = row
  end
end
return rows
